"""Files that are seen whole or not at all."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from secrets import token_hex


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the new one, even through a power cut.

    A process killed meanwhile leaves a part beside it, for `remove_partial`.

    Raises:
        OSError: it cannot be written; the old one is as it was.
    """
    # Not the process id: containers that share a folder share that too.
    partial = path.with_name(f"{path.name}.{token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(path: Path) -> None:
    """Remove, if possible, what killed processes left of a file that none is writing now."""
    for partial in path.parent.glob(f"{path.name}.*.partial"):
        with suppress(OSError):
            partial.unlink()


def read_whole(path: Path, most: int) -> bytes:
    """Read a file from who knows where: a regular one, of at most so many bytes.

    Raises:
        OSError: it is something else, or larger, or cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait forever
        raise OSError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"it has more than {most:,} bytes")
    return content
