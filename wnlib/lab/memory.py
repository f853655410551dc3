"""What a process keeps of the memory that it frees."""

import ctypes
import sys


def keep_memory() -> None:
    """Keep what a step frees for the next step, under Linux, in this process.

    By default glibc gives blocks of some megabytes back to the system and asks for them again:
    every page is then cleared anew, at width 96 a few percent of a step, at times a tenth.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD of malloc.h, at its largest
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
