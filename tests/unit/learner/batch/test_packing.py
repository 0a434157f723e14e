"""Packing: every loss token is in one micro-batch, with its fields beside it and its padding where it belongs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batch.packing import Layout, pack, without_groups
from learner.batch.types import Batch, Sequence
from tests.tools import segmented


def sequence(length: int, prompt: int = 1) -> Sequence:
    """A sequence of tokens 100, 101, ..., of which the first ``prompt`` carry no loss."""
    tokens = torch.arange(100, 100 + length)
    return Sequence(tokens, torch.arange(length) >= prompt, advantage=length / 10, weight=0.5, temperature=0.7)


def test_micro_batch_by_hand():
    micro = pack([sequence(3), sequence(4, prompt=2)], Layout(multiple=4)).micro_batches[0]
    assert micro.tokens.tolist() == [[100, 101, 102, 103, 100, 101, 102, 0]]
    assert micro.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
    assert micro.real.tolist() == [True] * 7 + [False]
    assert micro.cu_seqlens.tolist() == [0, 4, 7, 8]
    assert micro.loss_index.tolist() == [1, 2, 4, 5]
    assert micro.loss_target.tolist() == [102, 103, 101, 102]
    assert micro.loss_row.tolist() == [0, 0, 1, 1]
    assert micro.advantage.tolist() == pytest.approx([0.4, 0.3])
    assert micro.temperature.tolist() == pytest.approx([0.7] * 4)


def test_micro_batch_of_two_context_ranks_by_hand():
    """Sequences of 3 and 5 tokens, each padded to a multiple of 4, and the row so that both ranks hold a multiple of 3."""
    micro = pack([sequence(3), sequence(5, prompt=3)], Layout(multiple=3, context=2)).micro_batches[0]
    assert micro.tokens.tolist() == [[100, 101, 102, 103, 104, 0, 0, 0, 100, 101, 102, 0]]
    assert micro.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]]
    assert micro.real.tolist() == [True] * 5 + [False] * 3 + [True] * 3 + [False]
    assert micro.cu_seqlens.tolist() == [0, 8, 12]
    assert micro.loss_index.tolist() == [2, 3, 8, 9]
    assert micro.loss_row.tolist() == [0, 0, 1, 1]


def test_behaviour_log_probabilities_follow_their_tokens():
    first, second = sequence(3), sequence(4, prompt=2)
    first = replace(first, behaviour_logp=torch.tensor([0.0, -0.1, -0.2]))
    second = replace(second, behaviour_logp=torch.tensor([0.0, 0.0, -1.2, -1.3]))
    batch = pack([first, second], Layout(min_micro_batches=3))  # one of them stays empty
    values = [micro.behaviour_logp for micro in batch.micro_batches]
    assert [[] if v is None else v.tolist() for v in values] == [
        pytest.approx([-1.2, -1.3]),
        pytest.approx([-0.1, -0.2]),
        [],
    ]
    assert all(v is not None for v in values)
    assert batch.micro_batches[0].reference_logp is None
    with pytest.raises(ValueError, match="behaviour_logp is missing in 1 of 2 sequences"):
        pack([first, replace(second, behaviour_logp=None)], Layout())


def loss_tokens(batch: Batch) -> list[tuple[int, float, int]]:
    return [
        (int(target), round(float(m.advantage[row]), 4), int(m.positions[0, index]))
        for m in batch.micro_batches
        for target, row, index in zip(m.loss_target, m.loss_row, m.loss_index, strict=True)
    ]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=40),
    ranks=st.integers(1, 4),
    least=st.integers(1, 4),
    budget=st.integers(20, 200),
    multiple=st.sampled_from([1, 2, 8]),
    context=st.sampled_from([1, 2, 3]),
)
def test_packing_keeps_every_loss_token_once_whatever_the_cut(
    lengths: list[int], ranks: int, least: int, budget: int, multiple: int, context: int
):
    sequences = [sequence(length) for length in lengths]
    layout = Layout(ranks, least, budget, multiple, context)
    shares = [pack(sequences, layout, rank) for rank in range(ranks)]
    whole = pack(sequences, Layout(max_tokens=10**6))
    assert sorted(token for share in shares for token in loss_tokens(share)) == sorted(loss_tokens(whole))
    assert len({len(share.micro_batches) for share in shares}) == 1
    assert len(shares[0].micro_batches) >= least
    chunks = 2 * context if context > 1 else 1
    for share in shares:
        widths = [micro.tokens.shape[1] for micro in share.micro_batches]
        assert max(widths) <= max(budget, *lengths) + chunks + multiple * chunks
        for micro, width in zip(share.micro_batches, widths, strict=True):
            assert int(micro.cu_seqlens[-1]) == width
            assert width % (context * multiple) == 0
            assert not (micro.cu_seqlens % chunks).any()


def test_loss_follows_generated_and_a_micro_batch_holds_the_sequences_that_members_names():
    one = replace(sequence(6), generated=torch.tensor([False, False, False, True, False, True]))
    micro = pack([one], Layout()).micro_batches[0]
    assert micro.loss_index.tolist() == [2, 4]
    assert micro.loss_target.tolist() == [103, 105]
    lengths = [50, 400, 170, 60, 90, 300, 210, 80]
    batch = pack([sequence(length) for length in lengths], Layout(data_ranks=2, min_micro_batches=2), data_rank=1)
    packed = [int((micro.tokens > 0).sum()) for micro in batch.micro_batches]
    assert packed == [sum(lengths[i] for i in members) for members in batch.members]


def test_nothing_to_pack_is_an_error():
    with pytest.raises(ValueError, match="no sequences"):
        pack([], Layout())


@pytest.mark.parametrize(
    "layout", [Layout(), Layout(min_micro_batches=4), Layout(multiple=3, context=2, max_tokens=12)]
)
def test_a_batch_without_some_groups_keeps_the_others_as_they_were(layout: Layout):
    sequences = [
        replace(
            sequence(3 + number, prompt=1 + number % 2),
            group=number // 2,
            temperature=0.5 + number,
            weight=0.1 * number,
            behaviour_logp=torch.arange(3 + number) * -0.1,
            version=torch.full((3 + number,), number),
        )
        for number in range(8)
    ]
    batch = pack(sequences, layout)
    rest = without_groups(batch, {0, 2}, layout)
    assert [len(micro.tokens[0]) % layout.row_multiple for micro in rest.micro_batches] == [0] * len(
        batch.micro_batches
    )
    assert sorted(index for members in rest.members for index in members) == [2, 3, 6, 7]
    for micro, members in zip(rest.micro_batches, rest.members, strict=True):
        for row, index in enumerate(members):
            (alone,) = pack([sequences[index]], Layout(context=layout.context)).micro_batches
            start, end = micro.cu_seqlens[row : row + 2].tolist()
            assert micro.tokens[0, start:end].tolist() == alone.tokens[0].tolist()
            assert micro.positions[0, start:end].tolist() == alone.positions[0].tolist()
            own = micro.loss_row == row
            assert (micro.loss_index[own] - start).tolist() == alone.loss_index.tolist()
            for name in ("loss_target", "temperature", "behaviour_logp", "version"):
                assert getattr(micro, name)[own].tolist() == getattr(alone, name).tolist()
            for name in ("advantage", "weight", "group"):
                assert getattr(micro, name)[row] == getattr(alone, name)[0]
    assert without_groups(batch, range(4), layout).micro_batches[0].loss_row.tolist() == []


def segments() -> Sequence:
    """Segments of 4 tokens, of which 2 are context and the last one carries loss, and of 3, of which 1 is context."""
    generated = torch.tensor([False, False, False, True, False, True, True])
    return Sequence(torch.arange(200, 207), generated, advantage=-1.0, weight=0.25, segments=(4, 3))


def test_segments_by_hand():
    micro = pack([sequence(3), segments()], Layout(multiple=12)).micro_batches[0]
    assert micro.tokens.tolist() == [[200, 201, 202, 203, 204, 205, 206, 100, 101, 102, 0, 0]]
    assert micro.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0, 1]]
    assert (micro.cu_seqlens.tolist(), micro.segments.tolist()) == ([0, 4, 7, 10, 12], [2, 1])
    assert micro.loss_index.tolist() == [2, 4, 5, 7, 8]
    assert micro.loss_target.tolist() == [203, 205, 206, 101, 102]
    assert micro.loss_row.tolist() == [0, 0, 0, 1, 1]
    assert micro.advantage.tolist() == pytest.approx([-1.0, 0.3])
    assert micro.max_seqlen == 4


def test_segments_of_two_context_ranks_are_padded_by_themselves():
    micro = pack([segments()], Layout(context=2)).micro_batches[0]
    assert micro.tokens.tolist() == [[200, 201, 202, 203, 204, 205, 206, 0]]
    assert (micro.cu_seqlens.tolist(), micro.segments.tolist()) == ([0, 4, 8], [2])
    assert micro.loss_index.tolist() == [2, 4, 5]


@settings(deadline=None, max_examples=60)
@given(
    shapes=segmented.SHAPES,
    seed=st.integers(0, 10_000),
    ranks=st.integers(1, 3),
    least=st.integers(1, 3),
    budget=st.integers(20, 120),
    context=st.sampled_from([1, 2]),
)
def test_packing_keeps_the_segments_of_a_response_together_and_apart_from_each_other(
    shapes: list[list[tuple[int, int]]], seed: int, ranks: int, least: int, budget: int, context: int
):
    """Every loss token sees its own segment and nothing else; without some groups, the others see what they saw before."""
    sequences = segmented.responses(shapes, seed)
    layout = Layout(ranks, least, budget, multiple=2, context=context)
    shares = [pack(sequences, layout, rank) for rank in range(ranks)]
    assert sorted(token for share in shares for token in segmented.read(share)) == segmented.expected(sequences)
    holders = [int(i) for share in shares for micro in share.micro_batches for i in micro.advantage.tolist()]
    assert sorted(holders) == list(range(1, len(sequences) + 1))  # each response is in one micro-batch, once
    for share in shares:
        for micro, members in zip(share.micro_batches, share.members, strict=True):
            assert micro.segments.tolist() == [len(sequences[i].lengths) for i in members]
            assert int(micro.cu_seqlens[-1]) == micro.tokens.shape[1]
            assert not (micro.cu_seqlens % layout.sequence_multiple).any()
    dropped = set(range(0, len(sequences), 3))  # of the groups, every third
    kept = [sequence for sequence in sequences if sequence.group not in dropped]
    rests = [without_groups(share, dropped, layout) for share in shares]
    assert sorted(token for rest in rests for token in segmented.read(rest)) == segmented.expected(kept)
    weights = [(a, w) for rest in rests for m in rest.micro_batches for a, w in zip(m.advantage, m.weight, strict=True)]
    assert all(float(weight) == pytest.approx(0.5 / float(number)) for number, weight in weights)
