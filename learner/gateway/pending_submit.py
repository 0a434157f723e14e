"""One submitted group between being read and being acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from learner.queue import Append
from leeway.v1 import rollout_pb2

if TYPE_CHECKING:
    from runtime.tracer import OpenSpan  # OpenTelemetry is optional


@dataclass(slots=True)
class PendingSubmit:
    """A submitted group that has not been acknowledged yet."""

    fleet: str
    ack: rollout_pb2.Ack  # has sequence and group id, and the outcome too once it is decided
    deliver: Callable[[rollout_pb2.Ack], None]  # called once, with the outcome
    group: Append | None = None  # what to append; None if the outcome was decided without asking Redis
    quarantined: str = ""  # JSON for the operator if the group was rejected and is to be quarantined
    counted: tuple[str, ...] = ()  # ledger fields that count it besides its outcome and its reason
    wasted: int = 0  # generated tokens of a group that is refused though it breaks no rule but its age
    routing: int = 0  # bytes of its records of experts
    since: float = field(default_factory=time.monotonic)  # when it was read, monotonic seconds
    span: OpenSpan | None = None  # the open span "append" if the group is traced
