"""Reads which versions of a run were announced to its fleets, and which ones their workers run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.keys import Keys


@dataclass(frozen=True)
class VersionsInUse:
    """Versions of a run, as Redis knows them.

    Attributes:
        registered: versions that were announced.
        running: version -> "fleet/worker" of the workers whose last report named it.
    """

    registered: set[int] = field(default_factory=set)
    running: dict[int, list[str]] = field(default_factory=dict)


def read_versions_in_use(config: QueueConfig) -> VersionsInUse:
    """Reads the announced and the running versions.

    Raises:
        QueueError: Redis cannot be read.
    """
    keys, versions = Keys(config.run), VersionsInUse()
    with contextlib.closing(connect(config)) as client, translated():
        published: Any = client.xrange(keys.versions)
        versions.registered.update(int(fields[b"version"]) for _, fields in published)
        fleets: Any = client.smembers(keys.fleets)
        for fleet in sorted(name.decode() for name in fleets):
            workers: Any = client.hgetall(keys.running(fleet))
            for worker, value in sorted(workers.items()):
                if not worker.endswith(b"/fetching"):
                    version = int(value.decode().partition(":")[0])
                    versions.running.setdefault(version, []).append(f"{fleet}/{worker.decode()}")
    return versions
