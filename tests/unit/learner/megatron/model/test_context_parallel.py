"""Tests of which context rank holds which tokens, and of what a packed row says about them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._C._distributed_c10d import HashStore

from learner.batch.packing import Layout, pack
from learner.batch.types import MicroBatch, Sequence
from learner.megatron.model.context_parallel import (
    ContextGroup,
    LossOrder,
    copy_to,
    gather_loss_tokens,
    gather_tokens,
    token_owners,
)
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.model.rotary import Rotary

FREQUENCIES = torch.tensor([1.0, 0.01])
ROTARY = Rotary(FREQUENCIES)


def micro_batch(lengths: list[int], layout: Layout) -> MicroBatch:
    made = [Sequence(torch.arange(n) + 1, torch.arange(n) % 3 > 0, 1.0, 1.0) for n in lengths]
    return pack(made, layout).micro_batches[0]


def row(micro: MicroBatch, rank: int, ranks: int) -> PackedRow:
    return PackedRow.of(micro, ROTARY, torch.float32, torch.device("cpu"), ContextGroup(rank, ranks))


def test_two_ranks_by_hand():
    """Eight tokens are the blocks 01 23 45 67, of which rank 0 holds the first and the last."""
    micro = micro_batch([8, 4], Layout(context=2))
    assert token_owners(micro, 2).tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0]
    assert row(micro, 1, 2).own.tolist() == [2, 3, 4, 5, 9, 10]


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    ranks=st.integers(1, 5),
    multiple=st.sampled_from([1, 2, 64]),
)
def test_every_token_once_at_its_position_and_the_same_work_for_all(lengths: list[int], ranks: int, multiple: int):
    micro = micro_batch(lengths, Layout(multiple=multiple, context=ranks))
    positions = micro.positions[0]
    rows = [row(micro, rank, ranks) for rank in range(ranks)]
    assert torch.cat([one.own for one in rows]).sort().values.tolist() == list(range(len(positions)))
    assert len({len(one.own) for one in rows}) == 1
    assert len(rows[0].own) % multiple == 0
    for one in rows:
        assert torch.allclose(one.cos[:, 0, 1], (positions[one.own] * FREQUENCIES[1]).cos())
    # A token attends to itself and to the tokens before it, as many as its position says.
    assert len({int((positions[one.own] + 1).sum()) for one in rows}) == 1


@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12), ranks=st.integers(1, 5))
def test_every_loss_token_once_and_where_it_stands(lengths: list[int], ranks: int):
    micro = micro_batch(lengths, Layout(context=ranks))
    found = torch.full_like(micro.loss_target, -1)
    for rank in range(ranks):
        one = row(micro, rank, ranks)
        assert one.own[one.own_loss_index].tolist() == micro.loss_index[one.loss_order.own].tolist()
        assert one.loss_order.own.tolist() == (one.loss_order.owner == rank).nonzero().flatten().tolist()
        assert (found[one.loss_order.own] == -1).all()
        found[one.loss_order.own] = micro.tokens[0, one.own[one.own_loss_index] + 1]
    assert found.tolist() == micro.loss_target.tolist()


def test_sequences_that_cannot_be_cut():
    with pytest.raises(
        ValueError, match=r"sequences of \[6, 4\] tokens: parallel\.context = 2 splits each into 4 equal blocks"
    ):
        token_owners(micro_batch([6, 4], Layout()), 2)


@pytest.fixture
def group() -> Iterator[dist.ProcessGroup]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*is deprecated.*:FutureWarning")  # torch 2.13 warns of the former names
@pytest.mark.parametrize("missing", [[], ["all_gather_single", "reduce_scatter_single"]])
def test_tokens_are_gathered_with_and_without_the_names_that_torch_211_lacks(
    group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch, missing: list[str]
):
    for name in missing:
        monkeypatch.delattr(dist, name, raising=False)
    tokens = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    gathered = gather_tokens(tokens, group)
    assert gathered.tolist() == tokens.tolist()
    (gathered * torch.tensor([[1.0], [10.0]])).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.tolist() == [[1.0, 1.0], [10.0, 10.0]]
    logp, entropy = torch.tensor([-1.0, -2.0]), torch.tensor([0.5, 0.25])
    alone = ContextGroup(0, 1, group)
    found = gather_loss_tokens(logp, entropy, LossOrder.of(torch.zeros(2, dtype=torch.int64), alone), alone)
    assert [one.tolist() for one in found] == [logp.tolist(), entropy.tolist()]


def test_the_order_of_loss_tokens_says_where_each_is_among_its_ranks():
    order = LossOrder.of(torch.tensor([1, 0, 1, 1, 0]), ContextGroup(1, 2))
    assert order.index.tolist() == [0, 0, 1, 2, 1]
    assert (order.own.tolist(), order.most) == ([0, 2, 3], 3)
    none = LossOrder.of(torch.zeros(0, dtype=torch.int64), ContextGroup(0, 2))
    assert (none.index.tolist(), none.own.tolist(), none.most) == ([], [], 0)


@pytest.mark.parametrize(("device", "pins"), [("cpu", 0), ("cuda", 1)])
def test_what_a_cuda_device_copies_is_page_locked_first(monkeypatch: pytest.MonkeyPatch, device: str, pins: int):
    locked: list[torch.Tensor] = []

    def pin(self: torch.Tensor) -> torch.Tensor:
        locked.append(self)
        return self

    copied: list[bool] = []

    def copy(self: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        copied.append(non_blocking)
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: False)
    monkeypatch.setattr(torch.Tensor, "to", copy)
    copy_to(torch.zeros(3), torch.device(device))
    assert (len(locked), copied) == (pins, [True])
