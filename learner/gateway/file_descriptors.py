"""Raises the number of files that this process may open, and says how many connections that leaves room for."""

from __future__ import annotations

import resource

_RESERVED = 256  # Redis, logs, the status endpoint, what libraries open


def connections_possible() -> int:
    """Raises the soft limit of open files to the hard one; returns how many connections may then be open, at least 64.

    Without a limit of its own, a server that has no descriptor left lets every caller wait for its handshake. The soft limit
    is 1024 on many systems, which strangers can use up without a single call.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    unlimited = hard == resource.RLIM_INFINITY
    return 2**31 - 1 if unlimited else max(64, hard - _RESERVED)
