"""The states of an engine replica, and the interface through which they are reported."""

from __future__ import annotations

from typing import Literal, Protocol

ReplicaState = Literal["starting", "stale", "serving", "dead"]


class Observer(Protocol):
    """Receives the events of engine replicas."""

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        """Reports that an engine has entered a state."""
        ...

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """Reports that an engine has loaded a version, and the seconds it took."""
        ...
