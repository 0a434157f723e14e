"""Tells a supervisor whether this gateway is alive, and whether it would take a group now."""

from __future__ import annotations

import time

from runtime.status import Heartbeat

_LOOP_S = 30.0  # an event loop that stands still for longer is stuck for good
_WRITTEN_S = 5.0  # Redis is probed every second; its own time limit may be longer than anybody should wait to know


class GatewayHealth:
    """State of a gateway, set by its event loop and read by the threads of the status endpoint.

    ``alive`` and ``ready`` are checks in the sense of runtime.status.Check.

    Attributes:
        loop: beaten by the event loop.
        written: when Redis last took a write of this gateway, Unix seconds; 0 before the first.
    """

    def __init__(self) -> None:
        self.loop = Heartbeat("the event loop", _LOOP_S)
        self.written = 0.0
        self._written_monotonic = 0.0
        self._redis_problem: str | None = "Redis has not answered yet"
        self._draining = False

    def write_succeeded(self) -> None:
        """Records that Redis has taken a write."""
        self.written, self._written_monotonic = time.time(), time.monotonic()
        self._redis_problem = None

    def write_failed(self, error: str) -> None:
        """Records that Redis did not take a write, and why."""
        self._redis_problem = f"Redis takes no writes: {error}"

    def drain(self) -> None:
        """Records that this gateway is about to end."""
        self._draining = True

    def alive(self) -> str | None:
        """Describes a fault that only a restart repairs; None if there is none."""
        return self.loop.problem()

    def ready(self) -> str | None:
        """Describes why fleets are to use another gateway; None if this one takes groups."""
        if self._draining:
            return "draining"
        if self._redis_problem is not None:
            return self._redis_problem
        silent = time.monotonic() - self._written_monotonic
        return f"no write to Redis has succeeded for {silent:.0f} s" if silent > _WRITTEN_S else None
