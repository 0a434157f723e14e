"""The account of a chaos run, from logs alone: what producers saw acknowledged against what the learners trained.

Nothing here comes from the ledger, nor from Redis. Producers log an id before they send it and its ack after it came; the
learners log which groups each step trained, which groups expired, and which checkpoint each start went on from. What the
surviving weights contain follows from that: the newest learner's steps; of the one whose checkpoint it started from, the
steps up to that checkpoint; and so on back to the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.tail import Tail

Id = tuple[str, str]  # fleet, group id


@dataclass(frozen=True)
class Account:
    """What the logs of a run say about its groups.

    Attributes:
        acked: ids whose acceptance a producer saw.
        trained: how often each id is in the surviving weights.
        expired: ids that a learner set out to expire.
        abandoned: ids that were trained on a lost timeline, whether or not they were trained again.
        retrained: groups of steps that were lost with an abandoned timeline, so that they had to be trained again.
        resent: number of acks that said DUPLICATE.
        rejected: number of rejected groups by reason.
    """

    acked: set[Id] = field(default_factory=set)
    trained: Counter[Id] = field(default_factory=Counter)
    expired: set[Id] = field(default_factory=set)
    abandoned: set[Id] = field(default_factory=set)
    retrained: int = 0
    resent: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> list[Id]:
        """Groups that were acknowledged and neither trained nor expired. Valid once nothing waits in the queue any more."""
        return sorted(self.acked - set(self.trained) - self.expired)

    @property
    def given_up(self) -> set[Id]:
        """Groups that were trained, and are in the surviving weights no more: what rollbacks have cost, if all is well."""
        return self.abandoned - set(self.trained) - self.expired

    @property
    def doubled(self) -> list[Id]:
        """Groups that are in the surviving weights more than once."""
        return sorted(id_ for id_, count in self.trained.items() if count > 1)

    @classmethod
    def read(cls, directory: Path, workers: Mapping[str, str] | None = None) -> Account:
        """Reads the logs of a stack's directory.

        Args:
            directory: the stack's.
            workers: rollout worker -> its fleet; "local" for those that are not named.
        """
        acked: set[Id] = set()
        rejected: Counter[str] = Counter()
        resent = 0
        for fleet, row in _answers(directory, workers or {}):
            if row.get("outcome") == "REJECTED":
                rejected[row["reason"]] += 1
                continue
            acked.add((fleet, row.get("id") or row["group_id"]))
            resent += row.get("outcome") == "DUPLICATE"
        metrics = directory / "metrics"
        starts = [row for row in Tail(metrics / "learner.jsonl").rows() if row["kind"] == "start"]
        survives = lineage(starts)
        steps = Tail(metrics / "trained.jsonl").rows()
        surviving = [row for row in steps if row["step"] <= survives.get(row["epoch"], -1)]
        lost = [row for row in steps if row["step"] > survives.get(row["epoch"], -1)]
        return cls(
            acked=acked,
            trained=Counter(_ids(surviving)),
            expired=set(_ids(Tail(metrics / "expired.jsonl").rows())),
            abandoned=set(_ids(lost)),
            retrained=sum(len(row["groups"]) for row in lost),
            resent=resent,
            rejected=rejected,
        )


def lineage(starts: Iterable[dict[str, Any]]) -> dict[int, float]:
    """Returns epoch -> the last of its steps that is in the surviving weights. Epochs of which nothing survives are left out.

    Args:
        starts: rows with epoch, resumed_step and resumed_epoch, whose checkpoint it was (None: the initial model).
    """
    by_epoch = {row["epoch"]: row for row in starts}
    survives: dict[int, float] = {}
    epoch, last = max(by_epoch, default=None), float("inf")
    while epoch is not None:
        survives[epoch] = last
        start = by_epoch[epoch]
        epoch, last = start["resumed_epoch"], min(last, start["resumed_step"])
    return survives


def _answers(directory: Path, workers: Mapping[str, str]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yields the fleet and the row of every ack that a producer or worker has logged."""
    for path in sorted(directory.glob("producers/*.jsonl")):
        fleet = path.stem.replace("producer", "fleet")
        yield from ((fleet, row) for row in Tail(path).rows() if row["kind"] == "ack")
    for path in sorted(directory.glob("state/*.acked.jsonl")):
        fleet = workers.get(path.name.partition(".")[0], "local")
        yield from ((fleet, row) for row in Tail(path).rows())


def _ids(rows: Iterable[dict[str, Any]]) -> list[Id]:
    return [(fleet, id_) for row in rows for fleet, id_ in row["groups"]]
