"""Reads which versions of a run were announced to its fleets, and which ones their workers run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.evaluation_registry import read_best, read_evaluating, read_evaluations
from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2


@dataclass(frozen=True)
class VersionsInUse:
    """Versions of a run, as Redis knows them.

    Attributes:
        registered: versions that were announced.
        running: version -> "fleet/worker" of the workers and evaluators whose last report named it.
        evaluations: version -> what it is worth.
        best: the best version by the run's metric; None: no version was evaluated, or the run has no such metric.
    """

    registered: set[int] = field(default_factory=set)
    running: dict[int, list[str]] = field(default_factory=dict)
    evaluations: dict[int, list[rollout_pb2.Evaluation]] = field(default_factory=dict)
    best: int | None = None


def read_versions_in_use(config: QueueConfig, best: str | None = None) -> VersionsInUse:
    """Reads the announced, the running and the evaluated versions.

    Args:
        config: where the queue is.
        best: the metric by which the best version is chosen, name:sampling:metric; None: no version is.

    Raises:
        QueueError: Redis cannot be read.
    """
    keys = Keys(config.run)
    with contextlib.closing(connect(config)) as client, translated():
        versions = VersionsInUse(best=None if best is None else read_best(client, keys, best))
        published: Any = client.xrange(keys.versions)
        versions.registered.update(int(fields[b"version"]) for _, fields in published)
        fleets: Any = client.smembers(keys.fleets)
        for fleet in sorted(name.decode() for name in fleets):
            workers: Any = client.hgetall(keys.running(fleet))
            for worker, value in sorted(workers.items()):
                if not worker.endswith(b"/fetching"):
                    version = int(value.decode().partition(":")[0])
                    versions.running.setdefault(version, []).append(f"{fleet}/{worker.decode()}")
        for worker, version in sorted(read_evaluating(client, keys).items()):
            if not worker.endswith("/fetching"):
                versions.running.setdefault(version, []).append(worker)
        for evaluation in read_evaluations(client, keys):
            versions.evaluations.setdefault(evaluation.version, []).append(evaluation)
    return versions
