"""Memory of a session's processes, which a worker looks after once a second.

The limit is on resident memory, and it is watched. RLIMIT_AS would be kept by the kernel, but it counts address space: every
thread reserves 8 MiB of stack and its allocator 64 MiB more without using them, and a library of a GPU hundreds of GiB. It
would also leave out the programs that an agent starts, each of which has a limit of its own.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SESSION, _RESIDENT = 3, 21  # fields of /proc/PID/stat after the name in parentheses


def memory_of_session(session: int) -> int:
    """Returns the resident memory, in bytes, of all processes of a session; pages that they share count for each."""
    total = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # it has just ended
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            if int(fields[_SESSION]) == session:
                total += int(fields[_RESIDENT]) * _PAGE
    return total
