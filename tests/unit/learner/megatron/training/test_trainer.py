"""Optimizer settings: the configuration's win over those that a checkpoint brings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.config.learner import OptimizerConfig
from learner.megatron.training.trainer import Trainer, set_optimizer_settings, use_fused_adam

OLD = OptimizerConfig(weight_decay=0.1, betas=(0.9, 0.95), eps=1e-6)
NEW = OptimizerConfig(weight_decay=0.0, betas=(0.8, 0.99), eps=1e-8)


def adam(config: OptimizerConfig) -> torch.optim.AdamW:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))]} for _ in range(2)]
    return torch.optim.AdamW(groups, lr=1e-3, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)


def resumed() -> torch.optim.AdamW:
    """An optimizer of the new settings that has loaded the state of one of the old settings."""
    optimizer = adam(NEW)
    optimizer.load_state_dict(adam(OLD).state_dict())
    assert optimizer.param_groups[0]["betas"] == OLD.betas  # what loading does
    return optimizer


def test_every_group_has_the_configured_settings_and_what_changed_is_returned():
    optimizer = resumed()
    changed = set_optimizer_settings(optimizer.param_groups, NEW)
    assert changed == {"weight_decay": (0.1, 0.0), "betas": ((0.9, 0.95), (0.8, 0.99)), "eps": (1e-6, 1e-8)}
    for group in optimizer.param_groups:
        assert (group["weight_decay"], group["betas"], group["eps"]) == (0.0, (0.8, 0.99), 1e-8)
        assert group["lr"] == 1e-3


def test_nothing_changes_where_they_agree():
    optimizer = adam(OLD)
    for group in optimizer.param_groups:
        group["betas"] = list(group["betas"])  # as a checkpoint may give them back
    assert set_optimizer_settings(optimizer.param_groups, OLD) == {}


@pytest.mark.parametrize("chained", [False, True], ids=["one optimizer", "an optimizer of experts too"])
def test_a_trainer_reaches_every_part_of_its_optimizer(chained: bool):
    parts = [resumed() for _ in range(2 if chained else 1)]
    trainer = Trainer.__new__(Trainer)
    trainer._config = NEW
    trainer.optimizer = cast(Any, SimpleNamespace(chained_optimizers=parts) if chained else parts[0])
    assert set(trainer.use_configured_settings()) == {"weight_decay", "betas", "eps"}
    assert [group["betas"] for part in parts for group in part.param_groups] == [NEW.betas] * 2 * len(parts)


def test_fused_adam_steps_as_the_plain_one_does(monkeypatch):
    fused, called = getattr(torch, "_fused_adamw_"), []  # noqa: B009  not declared

    def counted(*arguments, **options):
        called.append(1)
        fused(*arguments, **options)

    monkeypatch.setattr(torch, "_fused_adamw_", counted)
    pair = adam(OLD), adam(OLD)
    use_fused_adam(pair[1:])
    for number in range(3):
        for optimizer in pair:
            for group in optimizer.param_groups:
                group["params"][0].grad = torch.tensor([0.3, -2.0]) / (1 + number)
            optimizer.step()
    assert len(called) == 3 * 2
    for one, other in zip(*(optimizer.param_groups for optimizer in pair), strict=True):
        assert torch.allclose(one["params"][0], other["params"][0], rtol=1e-6)
    assert [float(state["step"]) for state in pair[1].state.values()] == [3.0, 3.0]


def test_adams_that_are_not_torchs_are_left_alone():
    other = SimpleNamespace(param_groups=[{"lr": 1.0}])
    use_fused_adam([other])
    assert other.param_groups == [{"lr": 1.0}]
