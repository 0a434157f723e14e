"""The states of an engine replica, why a request to one failed, and the interface through which both are reported."""

from __future__ import annotations

from typing import Literal, Protocol

ReplicaState = Literal["starting", "stale", "serving", "dead"]
Failure = Literal["busy", "timeout", "connection", "status", "malformed", "spans", "nan", "restart"]

FAILURES: tuple[Failure, ...] = ("busy", "timeout", "connection", "status", "malformed", "spans", "nan", "restart")


class Observer(Protocol):
    """Receives the events of engine replicas."""

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        """Reports that an engine has entered a state."""
        ...

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """Reports that an engine has loaded a version, and the seconds it took."""
        ...

    def request_failed(self, engine: int, failure: Failure) -> None:
        """Reports that an engine did not answer a request, or not usably. The request is tried again."""
        ...
