"""Keep the C library from handing memory back to the system that the next step asks for again."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # glibc's <malloc.h>


def keep_freed_memory() -> bool:
    """Let glibc keep what this process frees, for its next allocation; whether it could be told to.

    By default it maps each buffer above 32 MiB afresh and unmaps it when it is freed, so that every activation costs a
    page fault per 4 KiB: elementwise operations on feature maps then take two to four times their time. The price is
    that a process does not shrink. Without effect where the C library is another; a matter of the whole process, which
    is why only the command line does it unasked.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(
        mallopt(key, value) for key, value in ((MMAP_THRESHOLD, 1 << 30), (TRIM_THRESHOLD, -1), (TOP_PAD, 1 << 28))
    )
