"""Keep the C library from handing memory back to the system that the next step asks for again."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # glibc's <malloc.h>


def return_freed_memory() -> bool:
    """The opposite of `keep_freed_memory`, for a process that must stay small: what it frees goes back at once.

    The heap cannot: glibc finds no room for an aligned tensor where one of the same size was, so that 100 blocks of 500
    units left 350 MiB behind. Hence tensors from 64 KiB on are mapped one by one.
    """
    told = _told({MMAP_THRESHOLD: 1 << 16, TRIM_THRESHOLD: 1 << 16, TOP_PAD: 0})
    if told:
        ctypes.CDLL(None).malloc_trim(0)
    return told


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, for its next allocation; whether it could be told to.

    By default it maps each buffer above 32 MiB afresh and unmaps it when it is freed, so that every activation costs a
    page fault per 4 KiB: elementwise operations on feature maps then take two to four times their time. Threads share
    one heap, for one of a thread's own holds no buffer above 64 MiB. The price is that a process does not shrink.
    Without effect where the C library is another; a matter of the whole process, which is why only the command line
    does it unasked.
    """
    return _told({MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: -1, TOP_PAD: 1 << 28, ARENA_MAX: 1})


def _told(values: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(key, value) for key, value in values.items())
