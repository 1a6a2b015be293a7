"""Settings of the C library's allocator: keep freed memory for the next step, or return it to the system."""

import ctypes
import sys
from typing import Any

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # glibc's <malloc.h>


def return_freed_memory() -> bool:
    """Lets glibc return freed memory at once, for a process that must stay small. Returns whether it could be set.

    The heap cannot be returned: glibc finds no room for an aligned tensor where one of the same size was, so that 100
    blocks of 500 units left 350 MiB behind. Hence tensors from 64 KiB on are mapped one by one.
    """
    done = _mallopt({MMAP_THRESHOLD: 1 << 16, TRIM_THRESHOLD: 1 << 16, TOP_PAD: 0})
    if done:
        trim()
    return done


def trim() -> None:
    """Returns what is free in the heap, also between what is used, as glibc does not by itself."""
    if (own := _glibc("malloc_trim")) is not None:
        own(0)


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for later allocations. Returns whether it could be set.

    By default glibc maps each buffer above 32 MiB afresh and unmaps it when it is freed, so that every activation costs
    a page fault per 4 KiB: elementwise operations on feature maps then take two to four times as long. Threads share
    one heap, because a thread's own holds no buffer above 64 MiB. The price is that the process does not shrink.
    Without effect under other C libraries. The setting applies to the whole process, so only the command line makes it
    unasked.
    """
    return _mallopt({MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: -1, TOP_PAD: 1 << 28, ARENA_MAX: 1})


def _mallopt(values: dict[int, int]) -> bool:
    mallopt = _glibc("mallopt")
    return mallopt is not None and all(mallopt(key, value) for key, value in values.items())


def _glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
