"""What a rollout worker shows Prometheus. The reference is deploy/metrics.md."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from runtime.status import Heartbeat

_LOOP_S = 30.0  # an event loop that stands still for longer is stuck for good


class Meters:
    """A worker's metrics.

    Attributes:
        loop: beaten by the worker's event loop.
        registry: what /metrics shows.
    """

    def __init__(self) -> None:
        self.loop = Heartbeat("the event loop", _LOOP_S)
        self.registry = CollectorRegistry()
