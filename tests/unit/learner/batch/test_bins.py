"""Sequences are divided so that ranks have equal work and micro-batches keep to their budget."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batch.bins import assign
from learner.batch.packing import Layout


def filled(lengths: list[int], layout: Layout) -> float:
    """Share of a step's token slots that tokens fill: all ranks wait for the one with the most slots."""
    multiple, row = layout.sequence_multiple, layout.row_multiple
    padded = [-(-length // multiple) * multiple for length in lengths]
    shares = assign(padded, layout.data_ranks, layout.min_micro_batches, layout.max_tokens)
    loads = [[max(1, sum(padded[i] for i in members)) for members in share] for share in shares]
    loads = [[-(-load // row) * row for load in share] for share in loads]
    return sum(lengths) / (layout.data_ranks * max(map(sum, loads)))


STAGES = st.sampled_from([1, 2, 4, 8])  # of the pipeline: micro-batches at least


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(50, 400), min_size=64, max_size=160), st.integers(1, 4), STAGES)
def test_packing_fills_at_least_95_percent(lengths: list[int], ranks: int, stages: int):
    layout = Layout(data_ranks=ranks, min_micro_batches=stages, max_tokens=4096)
    assert filled(lengths, layout) >= 0.95


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
    cut = assign(lengths, ranks, least, 300)
    assert sorted(i for share in cut for members in share for i in members) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in members) for share in cut for members in share) <= 300
    (count,) = {len(share) for share in cut}
    fullest = max(sum(lengths[i] for members in share for i in members) for share in cut)
    assert count <= max(least, 2 * fullest / 300 + 1)


def test_responses_of_over_half_the_budget_are_cut_at_once():
    """Two of them never fit into one micro-batch: a search from the lowest count up would try a thousand counts."""
    draw = random.Random(0)
    lengths = [draw.randint(8_193, 16_384) for _ in range(4096)]
    assert [len(share) for share in assign(lengths, 2, 1, 16_384)] == [2048, 2048]


def test_the_division_of_a_few_sequences_is_nearly_the_best():
    """A few sequences are the hardest case: where the best division fills 95%, ours does too, but for one step in thirty."""
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
    """Load of the fullest rank, minimised over all ways of dividing the lengths among the ranks."""
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
