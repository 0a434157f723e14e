"""RMSNorm against torch's own, forward and backward."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from learner.megatron.model.rms_norm import RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_equals_torch(dtype):
    norm = RMSNorm(SimpleNamespace(params_dtype=dtype, sequence_parallel=True), 16, eps=1e-6)
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
