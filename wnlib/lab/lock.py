"""One training in a folder at a time."""

import sqlite3
import weakref
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from wnlib.lab.record import RunError

# Of this process, by folder.
_held: "weakref.WeakValueDictionary[Path, Lock]" = weakref.WeakValueDictionary()


class Busy(RunError):
    """Another process trains in the folder."""


class Lock:
    """Held until `release`, or until the process ends, however it ends.

    It is SQLite's lock on an empty database, and so the operating system's on every platform.
    Where the file system has no locks, none is held.

    Within a process the latest training holds it: when a notebook's cell is run again, what its
    last run left suspended gives way.

    Raises:
        Busy: another process holds it.
        RunError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            key = folder.resolve()
            earlier = _held.pop(key, None)
            if earlier is not None:
                earlier.release()
            self.path.touch()
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror or error}") from None
        self.held = True
        try:
            connection = _exclusive(self.path)
        except sqlite3.Error as error:
            busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
            if busy and _possible(folder):
                raise Busy(
                    f"another training is at work in {folder}; stop it, or choose another folder"
                ) from None
        else:
            self._close = weakref.finalize(self, connection.close)
        _held[key] = self

    def check(self) -> None:
        """To be called before anything is written.

        Raises:
            RunError: a later training of this process holds the lock now.
        """
        if not self.held:
            raise RunError(f"a later training goes on in {self.folder}; this one gave way to it")

    def release(self, remove: bool = False) -> None:
        """Let go; `remove` the lock's file too where nothing more will be written."""
        if not self.held:
            return
        self.held = False
        if hasattr(self, "_close"):
            self._close()
        if remove:
            with suppress(OSError):
                if not self.path.stat().st_size:  # someone else's file may be called so
                    self.path.unlink()


def _exclusive(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = MEMORY")  # no second file
        connection.execute("BEGIN EXCLUSIVE")
    except BaseException:
        connection.close()
        raise
    return connection


def _possible(folder: Path) -> bool:
    """Whether a file that nobody else knows can be locked there."""
    # Network file systems without locks answer as if someone held each of them.
    path = folder / f"lock.{token_hex(4)}.partial"
    try:
        _exclusive(path).close()
    except sqlite3.Error:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True
