"""Optimizer settings: the configuration's win over those that a checkpoint brings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.config.learner import OptimizerConfig
from learner.megatron.training.trainer import StepStats, Trainer, set_optimizer_settings, use_fused_adam

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


class Traced(Trainer):
    """A trainer whose gradient and update are only written down."""

    def __init__(self, skipped: str | None = None) -> None:
        self.log: list[Any] = []
        self._skipped = skipped
        self._config = OptimizerConfig()
        self._gradient_meter = cast(Any, SimpleNamespace(keep=self._keep))

    def gradient(self, batch: Any, objective: Any) -> StepStats:
        self.log.append("gradient")
        return StepStats(0.5, 4.0, {"ess_count": 2.0}, self._skipped, gradient_cosine=0.3)

    def _keep(self, cosine: float | None, norm: float) -> float:
        self.log.append(("keep", cosine, norm))
        return norm / 2

    def _update(self, lr: float, norm: float) -> None:
        self.log.append(("update", lr, norm))


def test_the_rate_may_be_decided_between_gradient_and_update_which_clips_by_the_projected_norm():
    trainer = Traced()
    batch: Any = None

    def rate(stats: StepStats) -> float:
        trainer.log.append("rate")
        return 0.1 * stats.metrics["ess_count"]

    trainer.train_step(batch, batch, rate)
    assert trainer.log == ["gradient", "rate", ("keep", 0.3, 4.0), ("update", 0.2, 2.0)]
    skipped = Traced("non-finite loss (nan)")
    skipped.train_step(batch, batch, rate)
    assert skipped.log == ["gradient"]  # its gradient is never the last one
    fixed = Traced()
    fixed.train_step(batch, batch, 0.7)
    assert fixed.log[-1] == ("update", 0.7, 2.0)
