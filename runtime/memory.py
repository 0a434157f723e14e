"""How much memory this process may use: the machine's, or less where a control group limits it."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of version 2 and of version 1


def usable_memory(cgroup: Path = _CGROUP) -> int:
    """Returns the memory in bytes that this process and its children may use together.

    Args:
        cgroup: where control groups are mounted; in a container that is its own group.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for name in _LIMITS if (limit := _limit(cgroup / name)) is not None)])


def _limit(path: Path) -> int | None:
    """Reads a limit in bytes; None where there is none."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # version 2 says "max" for no limit
