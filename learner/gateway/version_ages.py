"""Knows which versions the run has published, and of which of them a group is too stale to be accepted."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from learner.queue import VERSIONS_KEPT, Timeline, VersionRegistry
from leeway.v1 import rollout_pb2


class TooStale(NamedTuple):
    """Versions of a group of which nothing is trained any more."""

    staleness: dict[int, int]  # version -> optimizer steps
    bound: int  # the greatest staleness at which a group is trained


class VersionAges:
    """Versions of a run as a gateway sees them. Pure: announcements in, ages out.

    The learner's step is taken to be that of the newest version. The learner is there or ahead of it, so nothing is refused
    that it would train.

    Args:
        expire_after: staleness in optimizer steps above which groups expire; None: none is too stale.

    Attributes:
        known: numbers of the versions that groups may name.
        epoch: the epoch that has published the newest version; None before the first version.
    """

    def __init__(self, expire_after: int | None) -> None:
        self.known: set[int] = set()
        self.epoch: int | None = None
        self._expire_after = expire_after
        self._registry = VersionRegistry()
        self._in_time: set[int] = set()

    def add(self, policies: Iterable[rollout_pb2.Policy], timelines: Iterable[Timeline] | None = None) -> None:
        """Adds announced versions, oldest first.

        Args:
            policies: the versions.
            timelines: every learner's start, when the last version is of another epoch than the last one added before.
        """
        added: list[int] = []
        for policy in policies:
            added.append(policy.version)
            self.known.add(policy.version)
            # Redis keeps only so many: a gateway that starts now would not know older ones, and all must decide alike.
            self.known.discard(policy.version - VERSIONS_KEPT)
            self._registry.add(policy.version, policy.step, policy.epoch)
            self.epoch = policy.epoch
        if timelines is not None:
            # A start that has published nothing yet would be compared with the step of a timeline that it has left.
            self._registry.replace_timelines(one for one in timelines if self.epoch is None or one.epoch <= self.epoch)
        if self._expire_after is not None:
            # Along one timeline, what is too stale stays so; only another timeline makes it necessary to look at all.
            candidates = self._in_time | set(added) if timelines is None else self.known
            self._in_time = self._registry.fresh(candidates, self._expire_after)

    def too_stale(self, versions: Collection[int]) -> TooStale | None:
        """Returns those of ``versions``, all of them known, that are too stale; None if there are none."""
        if self._expire_after is None or self._in_time.issuperset(versions):
            return None
        newest = self._registry.newest_step()
        old = [version for version in versions if version not in self._in_time]
        return TooStale({version: self._registry.staleness(version, newest) for version in old}, self._expire_after)

    def steps_left(self, version: int | None, step: int) -> int | None:
        """Returns after how many more optimizer steps groups of a version expire; None if they do not.

        Args:
            version: a known version; None, for one that is not known, returns None.
            step: the learner's step.
        """
        if version is None or self._expire_after is None:
            return None
        return self._expire_after - self._registry.staleness(version, step)

    def deciding(self, versions: Collection[int]) -> tuple[int, ...]:
        """Returns those of ``versions`` by which the learner decides whether a group expires."""
        return tuple(versions) if len(versions) == 1 else self._registry.extremes(versions)
