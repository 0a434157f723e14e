"""The learner's records of groups in the queue: a reference, an entry of a stream, a group it has taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leeway.v1 import rollout_pb2


@dataclass(frozen=True)
class GroupRef:
    """Reference to an accepted group; checkpoints store it.

    Attributes:
        fleet: who submitted the group.
        group_id: the fleet's id of it.
        entry_id: id of its entry in the fleet's stream.
    """

    fleet: str
    group_id: str
    entry_id: str


@dataclass(frozen=True)
class TakenGroup:
    """A group that the learner has taken and not committed yet."""

    ref: GroupRef
    group: rollout_pb2.Group
    staleness: int  # optimizer steps, of its most stale span, at the step it was taken


@dataclass(frozen=True)
class QueueEntry:
    """An entry of a fleet's stream, which refers to a group.

    Attributes:
        ref: the group.
        tokens: prompt and response tokens over all responses: what training on the group costs.
        generated: response tokens over all responses.
        versions: those of its spans' versions that decide how stale it is (VersionRegistry.extremes), so that a group expires
            without its payload being read.
    """

    ref: GroupRef
    tokens: int
    versions: tuple[int, ...] = ()
    generated: int = 0

    @classmethod
    def parse(cls, fleet: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> QueueEntry:
        """Parses the fields that append.lua writes."""
        versions = tuple(int(version) for version in fields[b"versions"].split(b",") if version)
        ref = GroupRef(fleet, fields[b"id"].decode(), entry_id.decode())
        return cls(ref, int(fields[b"tokens"]), versions, int(fields[b"generated"]))
