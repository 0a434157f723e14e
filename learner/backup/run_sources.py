"""What a backup copies of a run, and which of its versions somebody still needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from learner.checkpoint.store import CheckpointState
from learner.config import QueueConfig
from learner.publish.catalog import pinned, with_bases
from learner.queue.dump import QueueSnapshot
from runtime.version_format.names import versions_on_disk


@dataclass(frozen=True)
class RunSources:
    """Where the parts of a run are.

    Attributes:
        queue: its queue in Redis.
        checkpoints: directory of its checkpoints.
        weights: directory of its versions.
        metrics: directory of its metrics and evaluations.
        files: name in the backup -> small file. They are copied before Redis is read: a prompt cursor that is behind asks
            some prompts again, one that is ahead would pass over prompts whose groups are not there.
        texts: name in the backup -> content of a file that is made for it.
        final: whether the run goes on where the backup is restored, and nowhere else.
    """

    queue: QueueConfig
    checkpoints: Path
    weights: Path
    metrics: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    final: bool = False


def needed_versions(weights: Path, snapshot: QueueSnapshot, state: CheckpointState, best: int | None) -> set[int]:
    """Returns the versions on disk that a run needs to go on.

    They are the newest one that was announced, the pinned ones, the best one, the reference of the objective, every version
    that waiting groups may have been generated with, and what these are deltas of.

    Args:
        weights: directory of the versions.
        snapshot: what Redis knows.
        state: the checkpoint that the run will resume from.
        best: the best version; None: no version was evaluated, or nothing says which metric counts.
    """
    present = set(versions_on_disk(weights))
    announced = present & snapshot.versions
    wanted = {max(announced)} if announced else set[int]()
    wanted |= pinned(weights) | snapshot.pinned
    wanted |= {version for version in (best, state.extra.get("reference")) if version is not None}
    for (
        group
    ) in snapshot.groups:  # it names the oldest and the newest version of each epoch; those between may be in it too
        wanted |= set(range(min(group.versions), max(group.versions) + 1)) if group.versions else set()
    return with_bases(weights, wanted & present) & present
