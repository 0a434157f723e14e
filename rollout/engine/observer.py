"""The states of an engine replica, and the interface of those who are told about them."""

from __future__ import annotations

from typing import Literal, Protocol

State = Literal["starting", "stale", "serving", "dead"]


class Observer(Protocol):
    """Who is told what happens to engines."""

    def engine_state(self, engine: int, state: State) -> None:
        """The engine went into a state."""
        ...

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        """The engine now has a version."""
        ...
