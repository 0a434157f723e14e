"""Attention over packed rows against plain attention, one sequence at a time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batch.packing import Layout, pack
from learner.batch.types import MicroBatch, Sequence
from learner.megatron.model import attention
from learner.megatron.model.attention import PackedAttention, rotate
from learner.megatron.model.context_parallel import ContextGroup
from learner.megatron.model.kernels import Kernels
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.model.rotary import Rotary
from tests.tools.varlen import VarlenStandIn

HEADS, GROUPS, DIM = 4, 2, 8
VALUES = st.sampled_from([5, DIM, 11])  # channels of a head's value
FREQUENCIES = 1.0 / 100.0 ** (torch.arange(0, DIM, 2) / DIM)
ROTARY = Rotary(FREQUENCIES)


def _micro_batch(lengths: list[int], multiple: int = 1, muted: bool = False) -> MicroBatch:
    return pack(_sequences(lengths, muted), Layout(multiple=multiple)).micro_batches[0]


def _sequences(lengths: list[int], muted: bool = False) -> list[Sequence]:
    generated = [torch.arange(n) >= (n if muted else n // 2) for n in lengths]
    return [Sequence(torch.zeros(n, dtype=torch.int64), g, 1.0, 1.0) for n, g in zip(lengths, generated, strict=True)]


def shapes(row: PackedRow) -> list[tuple[int, int]]:
    return [(batch.count, batch.length) for batch in row.attention_batches]


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attends within one sequence, whose positions count from 0, in float64; q, k and v are [n, heads, d]."""
    angles = torch.outer(torch.arange(len(q)).double(), FREQUENCIES.double())
    rotated = []
    for x in (q, k):
        first, second = x.double().chunk(2, -1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        rotated.append(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))
    q, k = (t.transpose(0, 1) for t in rotated)
    v = v.double().transpose(0, 1)
    k, v = k.repeat_interleave(HEADS // GROUPS, 0), v.repeat_interleave(HEADS // GROUPS, 0)
    scores = (q @ k.transpose(1, 2)) / DIM**0.5
    scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([2, 3, 5, 9, 40, 150, 300]), min_size=1, max_size=6),
    multiple=st.sampled_from([1, 4, 7]),
    value=VALUES,
    seed=st.integers(0, 99),
)
def test_equals_attention_sequence_by_sequence(lengths, multiple, value, seed):
    """Forward and gradient, short and long sequences mixed, with and without padding at the end."""
    micro_batch = _micro_batch(lengths, multiple)
    width = micro_batch.tokens.shape[1]
    generator = torch.Generator().manual_seed(seed)
    sizes = ((HEADS, DIM), (GROUPS, DIM), (GROUPS, value))
    q, k, v = (torch.randn(width, *size, generator=generator, requires_grad=True) for size in sizes)
    row = PackedRow.of(micro_batch, ROTARY, torch.float32, torch.device("cpu"))
    output = PackedAttention(None)(q, k, v, None, packed_seq_params=row)
    bounds = micro_batch.cu_seqlens.tolist()
    spans = [slice(a, b) for a, b in itertools.pairwise(bounds)][: len(lengths)]
    expected = torch.cat([_plain(q[s], k[s], v[s]) for s in spans])
    used = sum(lengths)
    assert torch.allclose(output[:used].double(), expected, atol=1e-5)
    weight = torch.randn(used, HEADS * value, generator=generator)
    mine = torch.autograd.grad((output[:used] * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
        assert not a[used:].any()


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([2, 3, 5, 9, 40, 150, 300]), min_size=1, max_size=6),
    multiple=st.sampled_from([1, 4, 64]),
    ranks=st.sampled_from([2, 3, 4]),
    value=VALUES,
    seed=st.integers(0, 99),
)
def test_equals_attention_sequence_by_sequence_when_ranks_share_the_row(lengths, multiple, ranks, value, seed):
    """Forward and gradient; the ranks take turns in one process."""
    micro_batch = pack(_sequences(lengths), Layout(multiple=multiple, context=ranks)).micro_batches[0]
    width = micro_batch.tokens.shape[1]
    generator = torch.Generator().manual_seed(seed)
    sizes = ((HEADS, DIM), (GROUPS, DIM), (GROUPS, value))
    q, k, v = (torch.randn(width, *size, generator=generator, requires_grad=True) for size in sizes)
    group: Any = object()
    cpu = torch.device("cpu")
    rows = [PackedRow.of(micro_batch, ROTARY, torch.float32, cpu, ContextGroup(i, ranks, group)) for i in range(ranks)]
    both = [torch.cat([rotate(k[row.own], row.cos, row.sin), v[row.own]], -1)[: row.live] for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "gather_tokens", lambda *_: torch.cat(both))
        outputs = [PackedAttention(None)(*(x[row.own] for x in (q, k, v)), packed_seq_params=row) for row in rows]
    output = torch.zeros(width, HEADS * value).index_copy(0, torch.cat([row.own for row in rows]), torch.cat(outputs))
    spans = [slice(a, b) for a, b in itertools.pairwise(micro_batch.cu_seqlens.tolist())][: len(lengths)]
    expected = torch.cat([_plain(q[s], k[s], v[s]) for s in spans])
    assert torch.allclose(output[: len(expected)].double(), expected, atol=1e-5)
    assert not output[len(expected) :].any()
    weight = torch.randn(expected.shape, generator=generator)
    mine = torch.autograd.grad((output[: len(expected)] * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([2, 3, 5, 9, 40, 150, 300]), min_size=1, max_size=6),
    multiple=st.sampled_from([1, 4, 7]),
    groups=st.sampled_from([1, GROUPS, HEADS]),
    value=VALUES,
    seed=st.integers(0, 99),
)
def test_one_call_over_the_row_equals_the_padded_calls(lengths, multiple, groups, value, seed):
    """Forward and gradient, with the kernel's arguments as a GPU gets them; keys for every query head, for some, and one."""
    micro_batch = _micro_batch(lengths, multiple)
    generator = torch.Generator().manual_seed(seed)
    sizes = ((HEADS, DIM), (groups, DIM), (groups, value))
    length = micro_batch.tokens.shape[1]
    inputs = [torch.randn(length, *size, generator=generator, requires_grad=True) for size in sizes]
    used, cpu = sum(lengths), torch.device("cpu")
    slope = torch.randn(used, HEADS * value, generator=generator)
    found = []
    for kernels in (Kernels(), Kernels(varlen=True)):
        row = PackedRow.of(micro_batch, ROTARY, torch.float32, cpu, kernels=kernels)
        with pytest.MonkeyPatch.context() as patch:
            stand_in = VarlenStandIn()
            patch.setattr(attention, "varlen_attention", lambda stand_in=stand_in: stand_in)
            output = PackedAttention(None)(*inputs, packed_seq_params=row)
        assert stand_in.calls == int(kernels.varlen)
        found.append([output[:used], *torch.autograd.grad((output[:used] * slope).sum(), inputs)])
    for padded, whole in zip(*found, strict=True):
        assert torch.allclose(padded, whole, atol=1e-5)


def test_a_row_for_one_call_has_its_bounds_and_no_slots():
    """In host memory, so that nothing waits for a GPU; padding at the end is a sequence of its own."""
    micro_batch = _micro_batch([15, 14], multiple=8)
    row = PackedRow.of(
        micro_batch, ROTARY, torch.bfloat16, torch.device("cpu"), kernels=Kernels(fused=True, varlen=True)
    )
    assert row.cu_seqlens is not None
    assert (row.cu_seqlens.tolist(), row.cu_seqlens.dtype, row.longest) == ([0, 15, 29, 32], torch.int32, 15)
    assert (row.attention_batches, row.queries, row.keys) == ((), None, None)


def test_short_sequences_share_one_call():
    row = PackedRow.of(_micro_batch([15, 13, 9, 15]), ROTARY, torch.float32, torch.device("cpu"))
    assert shapes(row) == [(4, 15)]


def test_long_sequences_are_not_padded_for_ever():
    row = PackedRow.of(_micro_batch([4000, 3900, 12, 11, 900]), ROTARY, torch.float32, torch.device("cpu"))
    assert shapes(row) == [(2, 4000), (1, 900), (2, 12)]


def test_padding_at_the_end_does_not_attend():
    row = PackedRow.of(_micro_batch([15, 14], multiple=512), ROTARY, torch.float32, torch.device("cpu"))
    assert (row.live, shapes(row)) == (29, [(2, 15)])


def test_a_row_without_any_loss_still_runs():
    row = PackedRow.of(_micro_batch([6], muted=True), ROTARY, torch.float32, torch.device("cpu"))
    q = torch.randn(6, HEADS, DIM)
    output = PackedAttention(None)(q, q, q, packed_seq_params=row)
    assert output.shape == (6, HEADS * DIM)
    assert output.isfinite().all()


def test_unpacked_rows_are_refused():
    with pytest.raises(ValueError, match="packed_seq_params"):
        PackedAttention(None)(*torch.zeros(3, 2, HEADS, DIM))


def test_the_compiled_rotation_is_the_rotation(monkeypatch):
    """Both directions, each captured whole; the compiler's own code generation is left to a GPU."""
    captured = []

    def capture(function):
        captured.append(function.__name__)
        return torch.compile(function, backend="eager", fullgraph=True)

    monkeypatch.setattr(attention, "compiled", capture)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, HEADS, DIM, generator=generator, requires_grad=True)
    cos, sin = torch.randn(2, 6, 1, DIM, generator=generator)
    results = []
    for fused in (False, True):
        turned = rotate(x, cos, sin, fused)
        results.append([turned, *torch.autograd.grad(turned.square().sum(), x)])
    assert captured == ["_turn", "_turn_back"]
    for plain, fused in zip(*results, strict=True):
        assert torch.equal(plain, fused)


def test_rotation_by_hand():
    """A quarter turn takes (1, 0) to (0, 1); its gradient turns back."""
    x = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    cos, sin = torch.zeros(1, 1, 2), torch.tensor([[[-1.0, 1.0]]])
    turned = rotate(x, cos, sin)
    assert turned.tolist() == [[[0.0, 1.0]]]
    turned[0, 0, 1].backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[[1.0, 0.0]]]
