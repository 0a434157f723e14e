"""What a worker sends a launcher over its unix socket: one line of JSON, with the host's three files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FILES = 3  # file descriptors that come with an order: requests, answers, log


@dataclass(frozen=True)
class LaunchOrder:
    """An order to start one host. It lives for as long as its sender keeps the connection open.

    Attributes:
        python: the host's interpreter; empty: the launcher's own.
        memory_mb: MiB of resident memory, of it and all that it starts, over which it is killed; None: no limit.
    """

    python: str = ""
    memory_mb: int | None = None

    def line(self) -> bytes:
        """The order as it is sent."""
        return line(asdict(self))


def line(message: Mapping[str, Any]) -> bytes:
    """Returns a message as one line of JSON."""
    return json.dumps(message).encode() + b"\n"
