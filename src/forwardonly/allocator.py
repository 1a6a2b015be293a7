"""Keep the C library from handing memory back to the system that the next step asks for again."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # glibc's <malloc.h>


def return_freed_memory() -> bool:
    """The opposite of `keep_freed_memory`, for a process that must stay small: what it frees goes back at once.

    The heap cannot: glibc finds no room for an aligned tensor where one of the same size was, so that 100 blocks of 500
    units left 350 MiB behind. Hence tensors from 64 KiB on are mapped one by one.
    """
    told = _told(1 << 16, 1 << 16, 0)
    if told:
        ctypes.CDLL(None).malloc_trim(0)
    return told


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, for its next allocation; whether it could be told to.

    By default it maps each buffer above 32 MiB afresh and unmaps it when it is freed, so that every activation costs a
    page fault per 4 KiB: elementwise operations on feature maps then take two to four times their time. The price is
    that a process does not shrink. Without effect where the C library is another; a matter of the whole process, which
    is why only the command line does it unasked.
    """
    return _told(1 << 30, -1, 1 << 28)


def _told(mmap_threshold: int, trim_threshold: int, top_pad: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    values = {MMAP_THRESHOLD: mmap_threshold, TRIM_THRESHOLD: trim_threshold, TOP_PAD: top_pad}
    return all(mallopt(key, value) for key, value in values.items())
