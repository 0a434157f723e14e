"""Tuning of the C allocator for processes that allocate and free buffers of up to some megabytes all the time."""

from __future__ import annotations

import ctypes
import platform

# mallopt(3), malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_REUSED = 32 << 20  # bytes; the most that glibc accepts
_KEPT = 128 << 20  # bytes of free memory at the top of the heap


def keep_freed_memory() -> bool:
    """Lets freed buffers stay with the process, up to a bound, so that they are used again.

    By default glibc gives them back to the kernel at once, and each message pays for new, zeroed pages: a page fault for
    every 4 KB, about a sixth of a gateway's CPU time. Call it at the start of a process that moves messages.

    Returns:
        Whether the allocator accepted it; only glibc's does.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_REUSED)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
