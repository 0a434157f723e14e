"""Experts computed together against one MLP after another, by plain operators and by torch's grouped product."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.model import grouped_experts
from learner.megatron.model.grouped_experts import GroupedExperts, GroupedProducts, Products

HIDDEN, FFN = 16, 24
COUNTS = ([5, 0, 9, 1], [0, 0, 0, 0], [0, 0, 7, 0], [3, 3, 3, 3])
LIMITS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2e-2}


def weights(experts: int, dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = [(2 * FFN, HIDDEN)] * experts + [(HIDDEN, FFN)] * experts
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def one_after_another(x: Tensor, probs: Tensor, counts: list[int], weights: list[Tensor]) -> Tensor:
    parts = []
    for number, (tokens, scale) in enumerate(zip(x.split(counts), probs.split(counts), strict=True)):
        gate, up = F.linear(tokens, weights[number]).chunk(2, -1)
        parts.append(F.linear((F.silu(gate) * up * scale[:, None]).to(x.dtype), weights[len(counts) + number]))
    return torch.cat(parts)


def results(function: Any, counts: list[int], dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of tokens, of their weights and of all matrices."""
    draw = torch.Generator().manual_seed(2)
    count, matrices = sum(counts), weights(len(counts), dtype)
    x = torch.randn(count, HIDDEN, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    wide = torch.float64 if dtype == torch.float64 else torch.float32  # the router's type
    probs = torch.rand(count, generator=draw, dtype=torch.float64).to(wide).requires_grad_()
    output = function(x, probs, counts, matrices)
    slope = torch.randn(count, HIDDEN, generator=draw, dtype=torch.float64).to(dtype)
    return [output.detach(), *torch.autograd.grad(output, (x, probs, *matrices), slope)]


def together(x: Tensor, probs: Tensor, counts: list[int], matrices: list[Tensor]) -> Tensor:
    """What the module computes, with experts that have these matrices."""
    experts = GroupedExperts.__new__(GroupedExperts)
    torch.nn.Module.__init__(experts)
    experts.config = SimpleNamespace(bias_activation_fusion=False)  # type: ignore[assignment]
    layers = [_Layer(matrix) for matrix in matrices]
    experts.local_experts = [  # type: ignore[assignment]
        SimpleNamespace(linear_fc1=layers[n], linear_fc2=layers[len(counts) + n]) for n in range(len(counts))
    ]
    output, bias = experts.forward(x, torch.tensor(counts), probs)
    assert bias is None
    return output


class _Layer(torch.nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight: Any = weight


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("dtype", LIMITS)
def test_values_and_gradients_are_those_of_one_mlp_after_another(dtype: torch.dtype, counts: list[int]):
    found, expected = (results(function, counts, dtype) for function in (together, one_after_another))
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == wanted.dtype
        assert (got - wanted).norm() <= LIMITS[dtype] * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_grouped_product_is_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    counts = COUNTS[0]
    expected = results(together, counts, dtype)
    made: list[Products] = []

    def grouped(x: Tensor, weight: Tensor, counts: list[int]) -> Products:
        made.append(GroupedProducts(counts, x.device))
        return made[-1]

    monkeypatch.setattr(grouped_experts, "products_of", grouped)
    for got, wanted in zip(results(together, counts, dtype), expected, strict=True):
        assert (got - wanted).norm() <= LIMITS[dtype] * wanted.norm()
    assert len(made) == 2  # of the forward and of the backward pass


def test_the_backward_pass_keeps_the_hidden_layer_and_no_copy_of_a_weight():
    kept: list[Tensor] = []
    matrices = weights(4, torch.float32)
    x, probs = torch.randn(15, HIDDEN, requires_grad=True), torch.rand(15, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        together(x, probs, COUNTS[0], matrices)
    known = {tensor.data_ptr() for tensor in (x, probs, *matrices)}
    assert [tensor.shape for tensor in kept if tensor.data_ptr() not in known] == [(15, 2 * FFN)]


def test_weights_that_are_still_being_gathered_are_waited_for():
    matrices, waited = weights(2, torch.float32), []
    layers = [_Layer(matrix) for matrix in matrices]
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, *_: waited.append(module))
    experts = GroupedExperts.__new__(GroupedExperts)
    torch.nn.Module.__init__(experts)
    experts.config = SimpleNamespace(bias_activation_fusion=False)  # type: ignore[assignment]
    experts.local_experts = [SimpleNamespace(linear_fc1=layers[n], linear_fc2=layers[2 + n]) for n in range(2)]  # type: ignore[assignment]
    experts.forward(torch.randn(3, HIDDEN), torch.tensor([1, 2]), torch.rand(3))
    assert {id(layer) for layer in waited} == {id(layer) for layer in layers}
