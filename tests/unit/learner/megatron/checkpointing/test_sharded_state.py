"""Loading a checkpoint: the optimizer goes on with the configuration's settings, and says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.config.learner import OptimizerConfig
from learner.megatron.checkpointing import sharded_state
from learner.megatron.checkpointing.sharded_state import ShardedState
from learner.megatron.training.trainer import Trainer

SAVED = {"weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}


class Optimizer:
    """A stand-in for megatron's: its settings come with what it loads."""

    def __init__(self) -> None:
        self.optimizer = SimpleNamespace(param_groups=[], state={})
        self.param_groups: list[dict[str, Any]] = []

    def sharded_state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.param_groups = state["param_groups"]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_configured_settings_win_and_rank_0_logs_what_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: int
):
    trainer = Trainer.__new__(Trainer)
    trainer._config = OptimizerConfig(betas=(0.8, 0.99), weight_decay=0.1)
    trainer.optimizer = cast(Any, Optimizer())
    loaded = {"optimizer": {"param_groups": [dict(SAVED), dict(SAVED)]}}
    monkeypatch.setattr(sharded_state.dist_checkpointing, "load", lambda *_, **__: loaded)
    monkeypatch.setattr(sharded_state.parallel_state, "get_data_parallel_group", lambda **_: None)
    policy, ranks = SimpleNamespace(chunks=[], models=[]), SimpleNamespace(rank=rank)
    with capture_logs() as logs:
        ShardedState(cast(Any, policy), trainer, cast(Any, ranks)).load(tmp_path)
    groups = cast(Any, trainer.optimizer).param_groups
    assert [group["betas"] for group in groups] == [(0.8, 0.99)] * 2
    said = [(line["setting"], line["checkpoint"], line["now"]) for line in logs if "setting" in line]
    assert said == ([("optimizer.betas", (0.9, 0.95), (0.8, 0.99))] if rank == 0 else [])
