"""What is kept for the backward pass of a tensor whose recipe is known, and that the gradients do not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from learner.megatron.model.rebuilt import Recipe, rebuildable, rebuilding, recipe_of


class Recorded:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.sin()


def made(x: Tensor, function: Recorded) -> Tensor:
    return rebuildable(function(x), Recipe(function, (x.detach(),)))


def test_a_rebuilt_tensor_is_freed_after_the_forward_pass_and_the_gradient_is_the_same():
    function, weight = Recorded(), torch.randn(4, 3, requires_grad=True)
    x = torch.randn(5, 4)
    y = made(x, function)
    storage = torch.multiprocessing.reductions.StorageWeakRef(y.untyped_storage())
    with rebuilding(y):
        out = y @ weight
    del y
    assert storage.expired(), "it is kept"
    out.sum().backward()
    assert function.calls == 2
    expected = x.sin().T @ torch.ones(5, 3)
    assert weight.grad is not None
    assert torch.equal(weight.grad, expected)


def test_without_a_recipe_or_a_gradient_nothing_is_rebuilt():
    weight = torch.randn(4, 3, requires_grad=True)
    y = torch.randn(5, 4)
    with rebuilding(y):
        out = y @ weight
    assert torch.equal(out.grad_fn._saved_self, y)  # type: ignore[union-attr]
    function = Recorded()
    with torch.no_grad(), rebuilding(made(y, function)):
        assert not (y @ weight).requires_grad
    assert function.calls == 1


def test_other_tensors_and_parts_are_kept_as_they_are():
    function, x = Recorded(), torch.randn(6, 4)
    y, other = made(x, function), torch.randn(6, 4)
    weight = torch.randn(6, 4, requires_grad=True)
    part = torch.randn(3, 4, requires_grad=True)
    with rebuilding(y):
        out = (weight * other).sum() + (part * y[:3]).sum()
    out.backward()
    assert function.calls == 1
    assert weight.grad is not None
    assert part.grad is not None
    assert torch.equal(weight.grad, other)
    assert torch.equal(part.grad, x.sin()[:3])


@pytest.mark.parametrize("shape", [(2, 3, 4), (6, 4), (24,)])
def test_another_shape_of_a_tensor_has_its_recipe(shape: tuple[int, ...]):
    function, x = Recorded(), torch.randn(6, 1, 4, requires_grad=True)
    weight: Any = torch.randn(shape, requires_grad=True)
    y = made(x, function)
    view = y.view(shape)
    assert recipe_of(view) is recipe_of(y)
    assert recipe_of(y[:2]) is None
    with rebuilding(view):
        out = view * weight
    out.sum().backward()
    assert function.calls == 2
    assert torch.equal(weight.grad, x.detach().sin().view(shape))
