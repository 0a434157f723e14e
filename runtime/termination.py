"""The reason for which a process ends, where Kubernetes shows it: in the status of its pod (termination message).

LEEWAY_TERMINATION_LOG=/dev/termination-log     the container's terminationMessagePath; without it nothing is written
"""

from __future__ import annotations

import os
from pathlib import Path

_LONGEST = 4096  # bytes that the kubelet keeps


def leave_reason(reason: str, first: bool = False) -> None:
    """Writes why this process ends, in place of what was there.

    Args:
        reason: one line.
        first: keep a reason that is there: the one of the process that failed first.
    """
    path = os.environ.get("LEEWAY_TERMINATION_LOG")
    if not path:
        return
    place = Path(path)
    try:
        if not first or not place.exists() or not place.stat().st_size:
            place.write_bytes(f"{reason}\n".encode()[:_LONGEST])
    except OSError:
        # The process ends for the reason that it has logged; a message that cannot be written is none.
        return
