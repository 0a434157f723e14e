"""Settings of the recomputation with earlier versions' weights: the section [learner.behaviour] of a run file."""

from __future__ import annotations

from pydantic import Field

from learner.config.objective import ObjectiveConfig
from runtime.settings import Settings

_SPARE = 2  # versions cached beyond max_staleness: the current one, and one that a late group is of
_SHARE = 4  # one part in so many of the memory is cached weights at most


class BehaviourConfig(Settings):
    """Recomputation of log-probabilities under the versions that generated the responses.

    It is done for every token if the objective needs them, and for a sample of responses every ``drift_every`` steps. If the
    objective needs them, published versions stay on disk for as long as groups of theirs may be trained (expire_after); for
    the drift alone, for max_staleness steps and a few more.
    """

    cache_bytes: int | None = Field(
        default=None,
        ge=0,
        description="host memory of each rank, in bytes, that caches its shards of versions; others are read from disk. "
        "Default: enough for max_staleness + 2 versions, but at most a quarter of the machine's memory (or of the "
        "container's limit) for all ranks on it",
    )
    drift_every: int = Field(
        default=0,
        ge=0,
        description="steps between measurements of the true drift on a sample of responses; 0: never measured",
    )
    drift_responses: int = Field(
        default=64, gt=0, description="number of responses in that sample, over all data-parallel ranks"
    )


def takes_truncated_sampling(objective: ObjectiveConfig, behaviour: BehaviourConfig) -> bool:
    """Whether groups may be trained whose tokens were sampled from a truncated softmax (Group.sampling).

    What is recomputed is the full softmax: under it, a token has another probability than the one that it was sampled with.
    """
    return not objective.recomputes and not behaviour.drift_every


def cached_versions(max_staleness: int) -> int:
    """Number of versions that the default of ``cache_bytes`` is enough for."""
    return max_staleness + _SPARE


def cache_limit(cache_bytes: int | None, max_staleness: int, version_bytes: int, room: int) -> int:
    """Returns the most bytes that a rank caches.

    Args:
        cache_bytes: the setting of that name.
        max_staleness: learner.max_staleness.
        version_bytes: size of this rank's shard of one version.
        room: what ``cache_room`` returns; it bounds the default alone, not a value that was set.
    """
    return min(cached_versions(max_staleness) * version_bytes, room) if cache_bytes is None else cache_bytes


def cache_room(memory: int, ranks: int) -> int:
    """Returns the most bytes that one rank caches by default.

    Args:
        memory: bytes that all processes on the machine may use, as runtime.memory.usable_memory has it.
        ranks: number of ranks on the machine.
    """
    return memory // (_SHARE * ranks)
