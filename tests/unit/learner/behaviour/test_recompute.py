"""How many versions a rank caches by default, and what it says where they do not fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from structlog.testing import capture_logs

from learner.batch.packing import Layout
from learner.behaviour import recompute
from learner.behaviour.recompute import Behaviour
from learner.behaviour.token_scorer import TokenScorer
from learner.behaviour.weight_cache import ReadWeights
from learner.config import LearnerConfig
from learner.megatron.parallel import Ranks
from learner.megatron.training.scorer import Scorer
from learner.objectives import get

VERSION_BYTES = 400


class SmallModel:
    """A model of one parameter."""

    version_bytes = VERSION_BYTES


@pytest.mark.parametrize(
    ("settings", "usable", "held"),
    [
        ({}, 1 << 40, 5),  # max_staleness + 2
        ({}, 4 * 2 * 3 * VERSION_BYTES, 3),  # a quarter of the memory, for two ranks
        ({"cache_bytes": 2 * VERSION_BYTES}, 1 << 40, 2),
        ({"cache_bytes": 8 * VERSION_BYTES}, 0, 8),
    ],
)
def test_the_cache_holds_the_versions_in_use_within_this_ranks_share_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], usable: int, held: int
):
    monkeypatch.setattr(recompute, "usable_memory", lambda: usable)
    config = LearnerConfig.parse(
        {
            "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "max_staleness": 3, "metrics_dir": "x",
            "checkpoint": {"dir": "x"}, "publish": {"dir": str(tmp_path)}, "behaviour": settings,
            "objective": {"name": "grpo"},
        },
        source="test",
    )  # fmt: skip
    ranks = cast(Ranks, SimpleNamespace(rank=0, local_size=2, data_size=1, expert_size=1))
    with capture_logs() as logs:
        behaviour = Behaviour(
            config, get(config.objective), TokenScorer(cast(Scorer, SmallModel()), ranks, Layout(), config.seed), ranks
        )
    for version in range(10):
        behaviour.cache(version, ReadWeights([torch.zeros(VERSION_BYTES // 4)]))
    assert behaviour.caches
    assert [version for version in range(10) if version in behaviour._cache] == list(range(10 - held, 10))
    assert len(logs) == (held < 5)
    assert all("does not hold every version" in line["event"] for line in logs)
