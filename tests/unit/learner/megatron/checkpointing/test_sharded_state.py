"""Loading: the optimizer goes on with the configuration's settings, and says so. Saving: no update overtakes the copy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
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
        self.optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
        self.param_groups: list[dict[str, Any]] = []
        self.gbuf_ranges: list[Any] = []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.param_groups = state["param_groups"]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_configured_settings_win_and_rank_0_logs_what_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: int
):
    trainer = Trainer.__new__(Trainer)
    trainer._config, trainer._before_update = OptimizerConfig(betas=(0.8, 0.99), weight_decay=0.1), []
    trainer.optimizer = cast(Any, Optimizer())
    trainer._gradient_meter = None
    loaded = {"optimizer": {"param_groups": [dict(SAVED), dict(SAVED)]}}
    monkeypatch.setattr(sharded_state.dist_checkpointing, "load", lambda *_, **__: loaded)
    monkeypatch.setattr(sharded_state.parallel_state, "get_data_parallel_group", lambda **_: None)
    policy = SimpleNamespace(chunks=[], models=[], lora=None)
    ranks = SimpleNamespace(rank=rank, device=torch.device("cpu"))
    with capture_logs() as logs:
        ShardedState(cast(Any, policy), trainer, cast(Any, ranks)).load(tmp_path)
    groups = cast(Any, trainer.optimizer).param_groups
    assert [group["betas"] for group in groups] == [(0.8, 0.99)] * 2
    said = [(line["setting"], line["checkpoint"], line["now"]) for line in logs if "setting" in line]
    assert said == ([("optimizer.betas", (0.9, 0.95), (0.8, 0.99))] if rank == 0 else [])


def test_the_optimizer_waits_for_the_copy_before_it_steps():
    trainer = Trainer.__new__(Trainer)
    trainer.optimizer, trainer._before_update, trainer._gradient_meter = cast(Any, Optimizer()), [], None
    trainer._watch_optimizer()
    adam = cast(Any, trainer.optimizer).optimizer
    policy, ranks = (
        SimpleNamespace(chunks=[], models=[], lora=None),
        SimpleNamespace(rank=0, device=torch.device("cpu")),
    )
    state = ShardedState(cast(Any, policy), trainer, cast(Any, ranks))
    (parameter,) = adam.param_groups[0]["params"]
    seen: list[list[float]] = []
    parameter.grad = torch.ones(2)
    adam.step()
    before = parameter.tolist()
    state._saving = cast(Any, SimpleNamespace(protect=lambda: seen.append(parameter.tolist())))
    adam.step()
    assert seen == [before]
    assert parameter.tolist() != before
