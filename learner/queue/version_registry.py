"""Keeps which versions a run has published, on which timelines, and computes how stale a token of each is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import redis
from google.protobuf import json_format

from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2

VERSIONS_KEPT = 10_000


@dataclass(frozen=True)
class Timeline:
    """A learner's start: epoch ``epoch`` resumed at step ``resumed_step``, so later steps of older epochs were lost."""

    epoch: int
    resumed_step: int

    def to_json(self) -> str:
        """Returns the form stored in Redis."""
        return json.dumps({"epoch": self.epoch, "resumed_step": self.resumed_step})

    @classmethod
    def from_json(cls, text: str | bytes) -> Timeline:
        """Parses what ``to_json`` returns."""
        values = json.loads(text)
        return cls(int(values["epoch"]), int(values["resumed_step"]))


class UnknownVersionError(Exception):
    """The run has not published the version, or so long ago that it was forgotten."""


class VersionRegistry:
    """Versions and timelines of a run.

    Each learner start is a branch point: the epoch resumed at step c, and what older epochs did after c left the surviving
    timeline. A version's weights left the surviving timeline at its fork, the smallest of its own step and every c of
    later epochs. A token's staleness is the number of steps back to the fork plus those since the fork, with v the version
    it was generated with and t the learner's step:

        (step(v) - fork) + (t - fork), which is t - step(v) for a version on the surviving timeline.

    Example: epoch 1 publishes up to step 10; epoch 2 resumes at 6. At step 9 a token of epoch 1's step 10 is
    (10 - 6) + (9 - 6) = 7 steps stale. If epoch 3 then resumes at 4, it is (10 - 4) + (t - 4).
    """

    def __init__(self, timelines: Iterable[Timeline] = ()) -> None:
        self._versions: dict[int, tuple[int, int]] = {}
        self._newest: int | None = None
        self._timelines: list[Timeline] = []
        self._left: dict[int, float] = {}
        self.replace_timelines(timelines)

    def add(self, version: int, step: int, epoch: int) -> None:
        """Adds a published version, and drops the oldest one if there are more than Redis keeps."""
        self._versions[version] = (step, epoch)
        self._newest = version if self._newest is None else max(version, self._newest)
        if len(self._versions) > VERSIONS_KEPT:
            del self._versions[min(self._versions)]

    def begin(self, timeline: Timeline) -> None:
        """Adds a learner's start."""
        self.replace_timelines([*self._timelines, timeline])

    def replace_timelines(self, timelines: Iterable[Timeline]) -> None:
        """Replaces all learners' starts by ``timelines``."""
        self._timelines = sorted(timelines, key=lambda timeline: timeline.epoch)
        self._left = {}  # epoch -> the step at which later starts have left its timeline

    def newest(self) -> int | None:
        """Returns the highest version ever published, on any timeline; None when there is none."""
        return self._newest

    def newest_step(self) -> int:
        """Returns the step of the newest version; 0 when there is none."""
        newest = self.newest()
        return 0 if newest is None else self._versions[newest][0]

    def extremes(self, versions: Iterable[int]) -> tuple[int, ...]:
        """Returns those of ``versions`` that decide how stale a group is, now and after any rollback.

        Unknown ones are left out. The others are the oldest and the newest version of each epoch: along an epoch staleness
        falls up to the fork and grows behind it, so one of the two is the most stale wherever the fork is. A group whose
        tokens are of very many versions has few of them.
        """
        by_epoch: dict[int, list[int]] = {}
        for version in versions:
            if version in self._versions:
                by_epoch.setdefault(self._versions[version][1], []).append(version)
        # Versions of an epoch are numbered in the order of their steps.
        return tuple(sorted({edge for own in by_epoch.values() for edge in (min(own), max(own))}))

    def fresh(self, versions: Iterable[int], staleness: int) -> set[int]:
        """Returns those of ``versions`` that are known and at most ``staleness`` steps stale at the newest version's step."""
        step = self.newest_step()
        known = [version for version in versions if version in self._versions]
        return {version for version in known if self.staleness(version, step) <= staleness}

    def staleness(self, version: int, step: int) -> int:
        """Optimizer steps between the weights of ``version`` and the surviving timeline at ``step``.

        Raises:
            UnknownVersionError: the version is not known.
        """
        if version not in self._versions:
            raise UnknownVersionError(f"version {version} is not one that this run has published")
        at, epoch = self._versions[version]
        if epoch not in self._left:
            later = [timeline.resumed_step for timeline in self._timelines if timeline.epoch > epoch]
            self._left[epoch] = min(later, default=math.inf)
        fork = int(min(at, self._left[epoch]))
        return (at - fork) + (step - fork)


def read_registry(client: redis.Redis, keys: Keys) -> VersionRegistry:
    """Reads a run's versions and timelines from Redis."""
    timelines: Any = client.lrange(keys.timelines, 0, -1)
    registry = VersionRegistry(Timeline.from_json(text) for text in timelines)
    published: Any = client.xrange(keys.versions)
    for _, fields in published:
        policy = json_format.Parse(fields[b"json"], rollout_pb2.Policy(), ignore_unknown_fields=True)
        registry.add(policy.version, policy.step, policy.epoch)
    return registry
