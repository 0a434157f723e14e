"""What the learner takes from the queue, and what it keeps to commit it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leeway.v1 import rollout_pb2


@dataclass(frozen=True)
class GroupRef:
    """Where an accepted group is; what a checkpoint remembers of it."""

    fleet: str
    group_id: str
    entry_id: str


@dataclass(frozen=True)
class TakenGroup:
    """A group that the learner holds until it commits it."""

    ref: GroupRef
    group: rollout_pb2.Group
    staleness: int  # optimizer steps, the most of its spans, at the step it was taken


@dataclass(frozen=True)
class QueueEntry:
    """A reference in a fleet's stream."""

    ref: GroupRef
    tokens: int  # prompt and response tokens over all responses: what training on the group costs

    @classmethod
    def parse(cls, fleet: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> QueueEntry:
        """An entry as append.lua wrote it."""
        return cls(GroupRef(fleet, fields[b"id"].decode(), entry_id.decode()), int(fields[b"tokens"]))
