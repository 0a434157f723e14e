"""What a supervisor may ask a gateway: is it alive, and would it take a group now? Read by threads of the status endpoint."""

from __future__ import annotations

import time

from runtime.status import Heartbeat

_LOOP_S = 30.0  # a loop that stands still for longer is stuck for good
_WRITTEN_S = 5.0  # Redis is probed every second; its own time limit may be longer than anybody should wait to know


class GatewayHealth:
    """Told by the gateway's parts what happens; answers ``alive`` and ``ready`` (runtime.status.Check).

    Attributes:
        loop: beaten by the event loop.
        written: when Redis last took a write of ours, Unix seconds; 0 before the first.
    """

    def __init__(self) -> None:
        self.loop = Heartbeat("the event loop", _LOOP_S)
        self.written = 0.0
        self._written = 0.0  # the same, monotonic
        self._lost: str | None = "Redis has not answered yet"
        self._draining = False

    def wrote(self) -> None:
        """Redis has taken a write."""
        self.written, self._written = time.time(), time.monotonic()
        self._lost = None

    def lost(self, error: str) -> None:
        """Redis did not take a write."""
        self._lost = f"Redis takes no writes: {error}"

    def drain(self) -> None:
        """This gateway is on its way out."""
        self._draining = True

    def alive(self) -> str | None:
        """What only a restart mends."""
        return self.loop.problem()

    def ready(self) -> str | None:
        """Why a fleet had better go elsewhere."""
        if self._draining:
            return "draining"
        silent = time.monotonic() - self._written
        return self._lost or (f"no write to Redis has succeeded for {silent:.0f} s" if silent > _WRITTEN_S else None)
