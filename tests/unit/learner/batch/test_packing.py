"""Advantages, groups to sequences, packing."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batch.advantages import leave_one_out, mean_centred, standardised
from learner.batch.packing import Layout, _bins, pack
from learner.batch.sequences import to_sequences, token_ids
from learner.batch.statistics import describe
from learner.batch.types import Batch, Sequence
from learner.batch.weighting import Weighting
from leeway.v1 import rollout_pb2 as pb


def ids(*tokens: int) -> bytes:
    return np.array(tokens, "<i4").tobytes()


def group(
    rewards: list[float], spans: list[tuple[int, int, int]] | None = None, prompt: bytes = ids(14, 3, 11)
) -> pb.Group:
    responses = [
        pb.Response(
            tokens=ids(5, 6, 12),
            reward=reward,
            spans=[pb.Span(version=v, start=a, end=b) for v, a, b in spans or [(4, 0, 3)]],
        )
        for reward in rewards
    ]
    return pb.Group(prompt_tokens=prompt, responses=responses, temperature=1.0)


def test_advantages_by_hand():
    assert mean_centred([1, 0, 0, 0]).tolist() == [0.75, -0.25, -0.25, -0.25]
    assert standardised([1, 0, 0, 0]).tolist() == pytest.approx([3**0.5, *[-(3**-0.5)] * 3], rel=1e-5)
    assert leave_one_out([1, 0, 0, 0]).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("estimator", [mean_centred, standardised, leave_one_out])
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=64))
def test_advantages_are_finite_and_sum_to_zero(estimator: Callable[[list[float]], torch.Tensor], rewards: list[float]):
    values = estimator(rewards).double()
    assert bool(values.isfinite().all())
    assert abs(float(values.sum())) < 1e-2


@pytest.mark.parametrize("estimator", [mean_centred, standardised, leave_one_out])
def test_equal_rewards_have_no_advantage(estimator: Callable[[list[float]], torch.Tensor]):
    assert estimator([0.1] * 7).tolist() == [0.0] * 7  # the mean of seven 0.1 is not 0.1 in binary
    assert estimator([3.0]).tolist() == [0.0]


def test_tokens_are_little_endian_int32():
    assert token_ids(b"\x01\x00\x00\x00\x00\x01\x00\x00").tolist() == [1, 256]


def test_groups_become_weighted_sequences_with_all_prompts_in_the_denominator():
    sequences = to_sequences([group([1, 0]), group([1, 1])])
    assert [(s.advantage, s.weight) for s in sequences] == [(0.5, 0.25), (-0.5, 0.25)]
    assert sequences[0].tokens.tolist() == [14, 3, 11, 5, 6, 12]
    assert sequences[0].generated.tolist() == [False, False, False, True, True, True]


def test_weights_by_hand():
    """Two prompts, groups of 2 with rewards (1, 0) and (1, 1), responses of 3, 2, 3 and 3 loss tokens."""
    groups = [group([1, 0]), group([1, 1])]
    del groups[0].responses[1].spans[:]
    groups[0].responses[1].spans.append(pb.Span(version=4, start=0, end=2))
    for mean, weight in {"response": 1 / 4, "sum": 1 / 4, "group": 1 / (5 * 2), "batch": 1 / 11}.items():
        sequences = to_sequences(groups, Weighting(mean=mean))  # type: ignore[arg-type]
        assert [s.weight for s in sequences] == pytest.approx([weight] * 2), mean


def test_what_is_kept():
    groups = [group([0, 1, 2]), group([1, 1])]
    assert [s.advantage for s in to_sequences(groups, Weighting())] == [-1, 1]
    assert [s.advantage for s in to_sequences(groups, Weighting(keep="informative"))] == [-1, 0, 1]
    assert [s.advantage for s in to_sequences(groups, Weighting(keep="all"))] == [-1, 0, 1, 0, 0]


def test_tokens_outside_spans_carry_no_loss():
    sequences = to_sequences([group([1, 0], spans=[(4, 0, 1), (5, 2, 3)])])
    assert sequences[0].generated.tolist() == [False, False, False, True, False, True]
    micro = pack(sequences[:1], Layout()).micro_batches[0]
    assert micro.loss_index.tolist() == [2, 4]
    assert micro.loss_target.tolist() == [5, 12]


def test_statistics_by_hand():
    statistics = describe([group([1, 0], spans=[(4, 0, 1), (5, 1, 3)]), group([1, 1])], {4: 3, 5: 2})
    assert statistics.reward == 0.75
    assert statistics.informative == 0.5
    assert statistics.tokens == 12
    # two responses of (1 token at 3, 2 at 2), two of 3 tokens at 3
    assert statistics.staleness_mean == pytest.approx((2 * (3 + 4) + 2 * 9) / 12)
    assert statistics.staleness_max == 3
    assert statistics.staleness_tokens == {3: 8, 2: 4}


def sequence(length: int, prompt: int = 1) -> Sequence:
    tokens = torch.arange(100, 100 + length)
    return Sequence(tokens, torch.arange(length) >= prompt, advantage=length / 10, weight=0.5, temperature=0.7)


def test_micro_batch_by_hand():
    micro = pack([sequence(3), sequence(4, prompt=2)], Layout(multiple=4)).micro_batches[0]
    assert micro.tokens.tolist() == [[100, 101, 102, 103, 100, 101, 102, 0]]
    assert micro.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
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
    parts = 2 * context if context > 1 else 1
    for share in shares:
        widths = [micro.tokens.shape[1] for micro in share.micro_batches]
        assert max(widths) <= max(budget, *lengths) + parts + multiple * parts
        for micro, width in zip(share.micro_batches, widths, strict=True):
            assert int(micro.cu_seqlens[-1]) == width
            assert width % (context * multiple) == 0
            assert not (micro.cu_seqlens % parts).any()


def filled(lengths: list[int], layout: Layout) -> float:
    """Tokens as a share of the slots of a step's time: the rank with most keeps the others waiting."""
    padded = [-(-length // layout.parts) * layout.parts for length in lengths]
    loads = [[max(1, sum(padded[i] for i in members)) for members in share] for share in _bins(padded, layout)]
    loads = [[-(-load // layout.row) * layout.row for load in share] for share in loads]
    return sum(lengths) / (layout.data_ranks * max(map(sum, loads)))


STAGES = st.sampled_from([1, 2, 4, 8])  # of the pipeline: micro-batches at least


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(50, 400), min_size=64, max_size=160), st.integers(1, 4), STAGES)
def test_packing_fills_at_least_95_percent(lengths: list[int], ranks: int, stages: int):
    layout = Layout(data_ranks=ranks, min_micro_batches=stages, max_tokens=4096)
    assert filled(lengths, layout) >= 0.95
    batch = pack([sequence(length) for length in lengths[:8]], layout)
    held = [int((micro.tokens > 0).sum()) for micro in batch.micro_batches]
    assert held == [sum(lengths[i] for i in members) for members in batch.members]  # what is counted is what is packed


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 500), min_size=20, max_size=100), st.integers(1, 4), STAGES, st.sampled_from([200, 2000])
)
def test_packing_fills_95_percent_whenever_no_sequence_is_over_5_percent_of_a_rank(
    lengths: list[int], ranks: int, stages: int, budget: int
):
    longest = sum(lengths) // (20 * ranks)
    lengths = [piece for length in lengths for piece in [longest] * (length // longest) + [length % longest] if piece]
    assert filled(lengths, Layout(ranks, stages, budget)) >= 0.95


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 4), st.integers(1, 6))
def test_micro_batches_keep_to_the_budget_and_are_few(lengths: list[int], ranks: int, least: int):
    """Any two of best-fit's bins hold more than one budget together, or they would be one."""
    cut = _bins(lengths, Layout(ranks, least, 300))
    assert sorted(i for share in cut for members in share for i in members) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in members) for share in cut for members in share) <= 300
    (count,) = {len(share) for share in cut}
    fullest = max(sum(lengths[i] for members in share for i in members) for share in cut)
    assert count <= max(least, 2 * fullest / 300 + 1)


def test_responses_of_over_half_the_budget_are_cut_at_once():
    """Two to a micro-batch never fit: a search from the bottom would try a thousand counts."""
    draw = random.Random(0)
    lengths = [draw.randint(8_193, 16_384) for _ in range(4096)]
    assert [len(share) for share in _bins(lengths, Layout(2, 1, 16_384))] == [2048, 2048]


def test_packing_finds_what_there_is_to_find_among_a_few_sequences():
    """Up to ten are the hardest: where the best of all cuts fills 95%, ours does, but for one step in thirty."""
    draw = random.Random(3)
    feasible, missed = 0, 0
    for _ in range(150):
        ranks = draw.randint(2, 4)
        lengths = [draw.randint(1, 60) for _ in range(draw.randint(ranks, 10))]
        if sum(lengths) >= 0.95 * ranks * smallest_load(lengths, ranks):
            feasible += 1
            missed += filled(lengths, Layout(data_ranks=ranks)) < 0.95
    assert feasible > 50
    assert missed <= feasible / 30


def smallest_load(lengths: list[int], ranks: int) -> int:
    """Of the fullest rank, over all ways of sharing out."""
    states = {(0,) * ranks}
    for length in lengths:
        states = {
            tuple(sorted((*loads[:i], loads[i] + length, *loads[i + 1 :]))) for loads in states for i in range(ranks)
        }
    return min(map(max, states))


LONG = 16_384  # tokens, the longest response and a micro-batch's budget


@pytest.mark.parametrize("shape", ["lognormal", "two humps", "cut off"])
@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 1 << 30),
    ranks=st.integers(1, 8),
    groups=st.integers(16, 64),
    stages=STAGES,
    context=st.sampled_from([1, 2, 4]),
)
def test_packing_fills_at_least_95_percent_of_uneven_responses(
    shape: str, seed: int, ranks: int, groups: int, stages: int, context: int
):
    """Groups of 16 responses; the longest as long as a micro-batch, the median a twentieth of that."""
    draw = np.random.default_rng(seed)
    count = groups * 16
    lengths = np.exp(draw.normal(np.log(900), 0.9, count))
    if shape == "two humps":
        lengths = np.where(draw.random(count) < 0.2, draw.uniform(6_000, 12_000, count), lengths)
    if shape == "cut off":
        lengths[: count // 20] = LONG
    layout = Layout(ranks, stages, LONG, multiple=8, context=context)
    assert filled(lengths.clip(16, LONG).astype(int).tolist(), layout) >= 0.95


def test_nothing_to_pack_is_an_error():
    with pytest.raises(ValueError, match="no sequences"):
        pack([], Layout())
