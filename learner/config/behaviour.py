"""Settings of the recomputation with earlier versions' weights: the section [learner.behaviour] of a run file."""

from __future__ import annotations

from pydantic import Field

from runtime.settings import Settings


class BehaviourConfig(Settings):
    """Recomputation of log-probabilities under the versions that generated the responses.

    It is done for every token if the objective needs them, and for a sample of responses every ``drift_every`` steps. If the
    objective needs them, published versions stay on disk for as long as groups of theirs may be trained (expire_after); for
    the drift alone, for max_staleness steps and a few more.
    """

    cache_bytes: int = Field(
        default=4 << 30,
        ge=0,
        description="host memory of each rank, in bytes, that caches its shards of versions; others are read from disk",
    )
    drift_every: int = Field(
        default=0,
        ge=0,
        description="steps between measurements of the true drift on a sample of responses; 0: never measured",
    )
    drift_responses: int = Field(
        default=64, gt=0, description="number of responses in that sample, over all data-parallel ranks"
    )
