"""The state of each kind of Adam: made before the first step, read, written, and loaded from every other kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.patches import adam_state
from learner.megatron.patches.guard import PatchError
from tests.tools.fused_adam import ApexAdam, TransformerEngineAdam


def torch_fused(groups: Any, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, fused=True, **options)


KINDS = {"torch": torch.optim.AdamW, "torch fused": torch_fused, "te": TransformerEngineAdam, "apex": ApexAdam}
every = pytest.mark.parametrize("kind", KINDS)


def make(kind: str) -> Any:
    """An Adam over two groups of parameters whose values are always the same."""
    groups = [
        {"params": [torch.nn.Parameter(torch.linspace(-1, 1, size)) for size in sizes]} for sizes in ((3, 4), (5,))
    ]
    return KINDS[kind](groups, lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)


def weights(adam: Any) -> list[torch.Tensor]:
    return [parameter for group in adam.param_groups for parameter in group["params"]]


def step(adam: Any, number: int) -> None:
    """Takes step ``number``: its gradients follow from the number."""
    for parameter in weights(adam):
        parameter.grad = torch.cos(torch.arange(float(parameter.numel())) + number)
    adam.step()


def prime(adam: Any) -> None:
    adam_state.initialize([SimpleNamespace(optimizer=adam)])


def moments(adam: Any) -> list[torch.Tensor]:
    return [adam.state[weight][name] for weight in weights(adam) for name in ("exp_avg", "exp_avg_sq")]


@every
def test_an_adam_before_its_first_step_can_be_saved(kind: str):
    adam = make(kind)
    prime(adam)
    saved = adam.state_dict()
    assert len(saved["state"]) == 3
    assert not any(moment.any() for moment in moments(adam))
    assert adam_state.read_step(adam) == 0


@every
def test_steps_after_that_are_those_of_an_adam_that_was_left_alone(kind: str):
    adam, alone = make(kind), make("torch")
    prime(adam)
    for number in range(3):
        step(adam, number)
        step(alone, number)
        prime(adam)  # before every checkpoint: what is there stays
    assert adam_state.read_step(adam) == 3
    torch.testing.assert_close(weights(adam), weights(alone))


@every
@pytest.mark.parametrize("saved_by", KINDS)
@pytest.mark.parametrize("taken", [0, 2])
def test_a_resumed_adam_goes_on_as_if_nothing_had_happened(kind: str, saved_by: str, taken: int):
    old, adam = make(saved_by), make(kind)
    for number in range(taken):
        step(old, number)
    prime(old)
    prime(adam)
    groups = [
        {name: value for name, value in group.items() if name != "params"} | {"step": adam_state.read_step(old)}
        for group in old.param_groups
    ]
    for group, loaded in zip(adam.param_groups, adam_state.translate_groups(adam, groups), strict=True):
        group |= loaded  # as torch's load_state_dict does
    adam_state.write_step(adam, taken)
    with torch.no_grad():
        for mine, saved in zip(weights(adam) + moments(adam), weights(old) + moments(old), strict=True):
            mine.copy_(saved)
    assert adam_state.read_step(adam) == taken
    for number in range(taken, taken + 3):
        step(old, number)
        step(adam, number)
    assert adam_state.read_step(adam) == taken + 3
    torch.testing.assert_close(weights(adam), weights(old))
    assert adam.param_groups[0].get("fused") == (True if kind == "torch fused" else None)


def test_every_parameter_has_a_step_count_of_its_own():
    adam = make("torch")
    prime(adam)
    adam_state.write_step(adam, 4)
    counts = [adam.state[weight]["step"] for weight in weights(adam)]
    assert len({count.data_ptr() for count in counts}) == len(counts)


def test_an_optimizer_of_another_kind_is_refused_by_name():
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(PatchError, match=r"torch\.optim\.sgd\.SGD"):
        prime(other)
    with pytest.raises(PatchError, match=r"torch\.optim\.sgd\.SGD"):
        adam_state.write_step(other, 1)


def test_step_counts_that_differ_are_refused():
    with pytest.raises(PatchError, match="not the same everywhere: 3, 4"):
        adam_state.translate_groups(make("te"), [{"step": 3}, {"step": 4.0}])
