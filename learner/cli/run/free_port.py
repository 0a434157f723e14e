"""A port of this machine on which nothing listens."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Returns a free port of 127.0.0.1; another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
