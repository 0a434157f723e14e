"""Configuration of what is computed with the weights of versions published before. Importable without torch."""

from __future__ import annotations

from pydantic import Field

from runtime.settings import Settings


class BehaviourConfig(Settings):
    """Log-probabilities under the versions that generated the responses, for objectives that need them, and as a sample.

    While they are wanted, published versions stay on disk for as long as groups may carry them (max_staleness).
    """

    cache_bytes: int = Field(
        default=4 << 30,
        ge=0,
        description="host memory of each rank for its part of versions; others are read from disk",
    )
    drift_every: int = Field(
        default=0, ge=0, description="every n-th step the true drift is measured on a sample of responses; 0: never"
    )
    drift_responses: int = Field(default=64, gt=0, description="size of that sample, over all data-parallel ranks")
