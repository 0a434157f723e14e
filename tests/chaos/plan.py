"""The settings of a chaos stack: how many processes of which kind, and their configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Plan:
    """Settings of a stack.

    Each gateway is fed by one producer without leases, which goes on whatever the learner does, and one with leases. The
    worker has an SGLang server: its own, which dies with it, or one beside it.
    """

    aof: Literal["always", "everysec"] = "always"
    gateways: int = 2
    producers_per_s: float = 12.0
    hostile: bool = False  # whether fleets that do not behave send to the first gateway all the time
    worker: Literal["none", "own engine", "engine beside"] = "none"
    groups_per_step: int = 8
    max_staleness: int = 32
    lease_s: float = 4.0
    checkpoint_every: int = 4
    learner: dict[str, Any] = field(default_factory=dict)  # overrides, by top-level key
    gateway: dict[str, Any] = field(default_factory=dict)  # likewise
