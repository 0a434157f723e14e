"""The C allocator, told what these processes do all day: allocate and free buffers of up to some megabytes."""

from __future__ import annotations

import ctypes
import platform

# mallopt(3), malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_REUSED = 32 << 20  # bytes; the most that glibc accepts
_KEPT = 128 << 20  # bytes of free memory at the top of the heap


def keep_freed_memory() -> bool:
    """Freed buffers stay with the process, up to a bound, and are used again.

    By default glibc gives them back to the kernel at once, and each message pays for new, zeroed pages: a page fault for
    every 4 KB, about a sixth of a gateway's CPU time. For the start of a process that moves messages.

    Returns:
        Whether the allocator could be told; only glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_REUSED)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
