"""The gate of an MLP against plain operators, and what it keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from learner.megatron.model.gated_mlp import _Gate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gates_values_and_gradients_are_those_of_plain_operators(dtype: torch.dtype):
    torch.manual_seed(0)
    both = torch.randn(7, 1, 24).to(dtype).requires_grad_()
    outer = torch.randn(7, 1, 12).to(dtype)
    product = _Gate.apply(both, False)
    product.backward(outer)  # type: ignore[union-attr]
    plain = both.detach().clone().requires_grad_()
    gate, up = plain.chunk(2, -1)
    expected = F.silu(gate) * up
    expected.backward(outer)
    assert both.grad is not None
    assert torch.equal(product, expected)  # type: ignore[arg-type]
    assert torch.equal(both.grad, plain.grad)  # type: ignore[arg-type]


def test_the_gate_keeps_its_input_only():
    kept = []
    both = torch.randn(7, 24, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        _Gate.apply(both, False)
    assert [tensor.data_ptr() for tensor in kept] == [both.data_ptr()]


def test_the_slope_by_hand():
    both = torch.tensor([[0.0, 3.0]], dtype=torch.float64, requires_grad=True)
    _Gate.apply(both, False).sum().backward()  # type: ignore[union-attr]
    assert both.grad is not None
    assert both.grad.tolist() == [[1.5, 0.0]]  # silu'(0) = 1/2, times 3; silu(0) = 0
