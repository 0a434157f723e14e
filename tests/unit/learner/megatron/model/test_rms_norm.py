"""RMSNorm against torch's own, forward and backward."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from learner.megatron.model.rms_norm import RMSNorm


def _norm(dtype: torch.dtype, fused: bool) -> RMSNorm:
    settings = SimpleNamespace(params_dtype=dtype, sequence_parallel=True, persist_layer_norm=fused)
    return RMSNorm(settings, 16, eps=1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_equals_torch(dtype: torch.dtype, fused: bool):
    norm = _norm(dtype, fused)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    x = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    mine, theirs = norm(x), F.rms_norm(x, (16,), norm.weight, 1e-6)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert mine.dtype == dtype
    assert torch.allclose(mine, theirs, rtol=tolerance, atol=tolerance)
    slope = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    for a, b in zip(
        torch.autograd.grad(mine, (x, norm.weight), slope),
        torch.autograd.grad(theirs, (x, norm.weight), slope),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=tolerance * 10, atol=tolerance * 10)
    assert getattr(norm.weight, "sequence_parallel", False) is True


def test_the_fused_norm_of_a_view_keeps_no_more_than_the_view():
    """Keys are a part of the product of queries, keys and values, all of which would stay in memory."""
    norm, product = _norm(torch.float32, fused=True), torch.randn(5, 3, 16, requires_grad=True)
    sizes = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        norm(product[:, :1])
    assert sizes
    assert max(sizes) <= 5 * 16 * 4
