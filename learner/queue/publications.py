"""Which versions a run's fleets were told of, and which they run. Reads only."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.keys import Keys


@dataclass(frozen=True)
class Publications:
    """``registered``: versions announced. ``running``: version -> "fleet/worker", as last said by each."""

    registered: set[int] = field(default_factory=set)
    running: dict[int, list[str]] = field(default_factory=dict)


def read_publications(config: QueueConfig) -> Publications:
    """Raises QueueError."""
    keys, found = Keys(config.run), Publications()
    with contextlib.closing(connect(config)) as client, translated():
        published: Any = client.xrange(keys.versions)
        found.registered.update(int(fields[b"version"]) for _, fields in published)
        fleets: Any = client.smembers(keys.fleets)
        for fleet in sorted(name.decode() for name in fleets):
            workers: Any = client.hgetall(keys.running(fleet))
            for worker, value in sorted(workers.items()):
                version = int(value.decode().partition(":")[0])
                found.running.setdefault(version, []).append(f"{fleet}/{worker.decode()}")
    return found
