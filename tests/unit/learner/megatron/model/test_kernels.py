"""Which kernels a policy gets, by device, dtype and layout."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.attention import varlen

from learner.megatron.model import kernels
from learner.megatron.model.kernels import PLAIN, Kernels

CUDA, BF16 = torch.device("cuda"), torch.bfloat16


@pytest.fixture
def capability(monkeypatch):
    """Sets what the device says its generation is."""
    return lambda *found: monkeypatch.setattr(kernels.torch.cuda, "get_device_capability", lambda device: found)


@pytest.mark.parametrize(
    ("generation", "dtype", "head_dim", "context", "varlen"),
    [
        ((9, 0), BF16, 128, 1, True),
        ((8, 0), BF16, 256, 1, True),
        ((9, 0), torch.float32, 128, 1, False),
        ((9, 0), BF16, 128, 2, False),
        ((9, 0), BF16, 100, 1, False),
        ((9, 0), BF16, 264, 1, False),
        ((7, 5), BF16, 128, 1, False),
    ],
)
def test_one_call_attends_to_a_row_where_flash_attention_runs(capability, generation, dtype, head_dim, context, varlen):
    capability(*generation)
    assert Kernels.select(True, CUDA, dtype, head_dim, context) == Kernels(fused=True, varlen=varlen)


@pytest.mark.parametrize(("wanted", "device"), [(True, "cpu"), (False, "cuda")])
def test_elsewhere_operators_are_plain(wanted: bool, device: str):
    assert Kernels.select(wanted, torch.device(device), BF16, 128, 1) == PLAIN


@pytest.mark.parametrize("has_groups", [True, False], ids=["torch 2.13", "torch 2.11"])
def test_attention_is_causal_and_takes_fewer_key_heads(monkeypatch, has_groups: bool):
    """Both signatures of varlen_attn: torch 2.11 has no enable_gqa."""

    def newer(query, key, value, *lengths, scale=None, window_size=(-1, -1), enable_gqa=False):
        assert enable_gqa
        return window_size

    def older(query, key, value, *lengths, scale=None, window_size=(-1, -1)):
        return window_size

    monkeypatch.setattr(varlen, "varlen_attn", newer if has_groups else older)
    kernels.varlen_attention.cache_clear()
    try:
        assert kernels.varlen_attention()(*range(7), scale=None) == (-1, 0)
    finally:
        kernels.varlen_attention.cache_clear()


def test_the_installed_torch_takes_the_call_as_attention_makes_it():
    """Checked by torch's own operator on tensors without data: shapes, argument names and the backward pass."""
    attend = kernels.varlen_attention()
    assert isinstance(attend, partial)
    with torch.device("meta"):
        q, k, v = (torch.empty(12, heads, 16, dtype=BF16, requires_grad=True) for heads in (4, 2, 2))
        bounds = torch.empty(3, dtype=torch.int32)
    output = attend(q, k, v, bounds, bounds, 7, 7, scale=None)
    assert output.shape == q.shape
    output.sum().backward()
    assert k.grad is not None
    assert k.grad.shape == k.shape
