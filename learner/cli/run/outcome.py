"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from leeway.v1 import rollout_pb2


@dataclass
class Outcome:
    """How a run ended. Times are Unix seconds."""

    started: float
    stopping: float = 0.0
    ended: float = 0.0
    signal: int | None = None
    failure: str | None = None
    restarts: dict[str, int] = field(default_factory=dict)
    ledgers: list[rollout_pb2.Ledger] | None = None
