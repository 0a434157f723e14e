"""Correction biases: by the load of the whole step, towards the mean of its layer, exactly as far as the rate says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.config.learner import OptimizerConfig
from learner.megatron.training.expert_balance import ExpertBalance
from learner.megatron.training.trainer import StepStats, Trainer

START = torch.tensor([0.5, -0.25, 0.0, 1.0])
LOADS = {1: [10, 30, 20, 20], 2: [0, 0, 0, 8]}  # by layer; the mean is 20, and 2


def policy(corrected: bool = True) -> Any:
    """Two stages of a model chunk each: a dense layer and two with experts."""

    def layer(number: int) -> Any:
        bias = torch.nn.Parameter(START.clone(), requires_grad=False) if corrected else None
        mlp = SimpleNamespace() if number == 1 else SimpleNamespace(router=SimpleNamespace(expert_bias=bias))
        return SimpleNamespace(layer_number=number, mlp=mlp)

    chunks = [[layer(1), layer(2)], [layer(3)]]
    return SimpleNamespace(models=[SimpleNamespace(decoder=SimpleNamespace(layers=layers)) for layers in chunks])


def biases(model: Any) -> list[Tensor]:
    layers = [layer for chunk in model.models for layer in chunk.decoder.layers]
    return [layer.mlp.router.expert_bias for layer in layers if hasattr(layer.mlp, "router")]


def test_a_bias_moves_towards_the_mean_load_of_its_layer():
    model = policy()
    balance = ExpertBalance(model)
    balance.update(LOADS, 0.25)
    first, second = biases(model)
    assert first.tolist() == [0.75, -0.5, 0.0, 1.0]  # exactly the mean: it stays
    assert second.tolist() == [0.75, 0.0, 0.25, 0.75]
    balance.update({1: [20, 20, 20, 20], 2: [1, 1, 1, 0]}, 0.25)
    assert first.tolist() == [0.75, -0.5, 0.0, 1.0]
    assert second.tolist() == [0.5, -0.25, 0.0, 1.0]


def test_a_mean_that_is_no_whole_number_leaves_no_expert_in_the_middle():
    model = policy()
    ExpertBalance(model).update({1: [3, 3, 3, 4], 2: [3, 3, 3, 4]}, 0.25)
    assert (biases(model)[0] - START).tolist() == [0.25, 0.25, 0.25, -0.25]


def test_softmax_routers_have_no_bias():
    ExpertBalance(policy(corrected=False)).update(LOADS, 0.25)


@pytest.mark.parametrize(("rate", "skipped", "moves"), [(0.5, None, True), (0.0, None, False), (0.5, "no loss", False)])
def test_a_step_moves_biases_if_it_changes_weights(
    monkeypatch: pytest.MonkeyPatch, rate: float, skipped: str | None, moves: bool
):
    model, trainer = policy(), Trainer.__new__(Trainer)
    trainer._config, trainer._gradient_meter = OptimizerConfig(expert_bias_rate=rate), None
    trainer._balance = ExpertBalance(model)
    stats = StepStats(0.0, 1.0, {}, skipped, expert_tokens=LOADS)
    monkeypatch.setattr(trainer, "gradient", lambda *_: stats)
    monkeypatch.setattr(trainer, "_update", lambda *_: None)
    trainer.train_step(cast(Any, None), cast(Any, None), 1e-3)
    assert (biases(model)[0].tolist() != START.tolist()) == moves
