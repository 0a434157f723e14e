"""Attention of a sequence's last queries on a CUDA device: the kernel against an explicit mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

QUERIES, SEEN = 96, 352


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> list[Tensor]:
    """Output of the attention, and the gradients of a weighted sum of it."""
    inputs = [t.detach().requires_grad_() for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)]


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_last_queries_see_what_comes_before_them(dtype: torch.dtype, off: float):
    draw = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, length, 64, generator=draw, device="cuda", dtype=dtype)
        for heads, length in ((8, QUERIES), (2, SEEN), (2, SEEN))
    )
    allowed = torch.ones(QUERIES, SEEN, dtype=torch.bool, device="cuda").tril(SEEN - QUERIES)
    found = attended(q, k, v, causal_lower_right(QUERIES, SEEN))
    expected = attended(q.float(), k.float(), v.float(), allowed)
    for a, b in zip(found, expected, strict=True):
        assert (a.float() - b).norm() <= off * b.norm()
