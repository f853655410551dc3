"""CIFAR-10: the sample that ships with the package, the full set, and how both are checked."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# Of the official binary layout: per image 1 label byte, then 3072 bytes in planes R, G, B.
MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
# The sample in the same layout: the first 200 training and 100 test images of each class.
SAMPLE_MD5 = {
    "train": "e1f5964efab02fb19c18dbf5607c3517",
    "test": "5475799aaea34454f2521c96a8ac2efc",
}


class DataError(RuntimeError):
    """The data set cannot be had, or is not what it should be; the message says what to do."""


@dataclass(frozen=True)
class Cifar10:
    """Images and labels in memory; two are equal if their digests are."""

    name: str  #: "full" (50,000 + 10,000 images) or "sample" (2,000 + 1,000)
    train_images: Tensor = field(compare=False)  #: uint8 (N, 3, 32, 32)
    train_labels: Tensor = field(compare=False)  #: int64 (N,), an index into `CLASSES`
    test_images: Tensor = field(compare=False)  #: uint8 (M, 3, 32, 32)
    test_labels: Tensor = field(compare=False)  #: int64 (M,)
    digest: str  #: md5 over the md5 sums of the parts, in their order

    def __repr__(self) -> str:
        train, test = len(self.train_labels), len(self.test_labels)
        return f"Cifar10({self.name}: {train:,} + {test:,} images)"


def cache_dir() -> Path:
    """$WNLIB_CACHE, or wnlib in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "wnlib"
    return Path(os.environ.get("WNLIB_CACHE") or default).expanduser()


def load_cifar10(full: bool = False, cache: Path | str | None = None) -> Cifar10:
    """The sample of CIFAR-10, or all of it from `cache`, by default `cache_dir()`.

    Each part is used only after its md5 sum was found to be the known one; DataError says which
    is missing, cannot be read, or is damaged. `wnlib.lab.fetch_cifar10` fills the cache.
    """
    if full:
        root, sums = cache_dir() if cache is None else Path(cache).expanduser(), MD5
        try:
            parts = [(root / name).read_bytes() for name in MD5]
        except OSError as error:
            how = "fetch it with: python -m wnlib data --full, or wnlib.lab.fetch_cifar10(cache)"
            raise DataError(f"CIFAR-10 is not in {root} ({error.strerror}); {how}") from None
    else:
        sums, parts = SAMPLE_MD5, [_from_tiles(name) for name in SAMPLE_MD5]
    for (name, md5), part in zip(sums.items(), parts, strict=True):
        check_md5(name, part, md5)
    digest = hashlib.md5("".join(sums.values()).encode()).hexdigest()
    table = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, 3073)
    labels = torch.tensor(table[:, 0]).long()
    images = torch.tensor(table[:, 1:]).view(-1, 3, 32, 32)
    n = len(images) - len(parts[-1]) // 3073  # the last part is the test set
    train, test = (images[:n], labels[:n]), (images[n:], labels[n:])
    return Cifar10("full" if full else "sample", *train, *test, digest)


def check_md5(name: str, blob: bytes, md5: str) -> None:
    """Raise `DataError` for what is not, byte for byte, what it should be."""
    if (found := hashlib.md5(blob).hexdigest()) != md5:
        raise DataError(f"{name} has md5 {found}, not {md5}: incomplete or altered; fetch it anew")


def _from_tiles(part: str) -> bytes:
    """A part of the sample in the binary layout: from a sheet of tiles and a line of labels."""
    folder = Path(__file__).parent / "sample"
    labels = np.frombuffer((folder / f"{part}.txt").read_bytes().strip(), np.uint8) - ord("0")
    pixels = np.asarray(Image.open(folder / f"{part}.png"))
    tiles = pixels.reshape(len(pixels) // 32, 32, -1, 32, 3).transpose(0, 2, 4, 1, 3)
    return np.concatenate([labels[:, None], tiles.reshape(-1, 3072)], axis=1).tobytes()
