"""Memory of a session's processes, and log files that stay small: what a worker looks after once a second.

The limit is on resident memory, and it is watched. RLIMIT_AS would be kept by the kernel, but it counts address space: every
thread reserves 8 MiB of stack and its allocator 64 MiB more without using them, and a library of a GPU hundreds of GiB. It
would also leave out the programs that an agent starts, each of which has a limit of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SESSION, _RESIDENT = 3, 21  # fields of /proc/PID/stat after the name in parentheses
_KEPT_BYTES = 8 << 20  # of a log; twice that is on disk


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


def keep_small(log: Path) -> None:
    """Moves the content of a log that has become long to a file beside it, ``.1``, in place of what was there.

    Its writers go on: they append to the file, which is empty again. A line that is written in that moment may be lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _KEPT_BYTES:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)
