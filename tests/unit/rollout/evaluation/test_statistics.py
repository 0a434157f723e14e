"""Statistics of evaluations against numbers worked by hand and an independent reference."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from rollout.evaluation.statistics import Interval, MeasuredResponse, draws, mean_interval, measure, pass_at


def responses(*rewards: float | None, tokens: int = 5) -> list[MeasuredResponse]:
    return [MeasuredResponse(reward, tokens, truncated=False) for reward in rewards]


@pytest.mark.parametrize(
    ("total", "solved", "drawn", "expected"),
    [(4, 1, 1, 1 / 4), (4, 1, 2, 1 / 2), (4, 2, 2, 5 / 6), (4, 0, 4, 0.0), (4, 1, 4, 1.0), (8, 3, 4, 1 - 5 / 70)],
)
def test_pass_at_k_is_worked_by_hand(total: int, solved: int, drawn: int, expected: float):
    assert pass_at(total, solved, drawn) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("total", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_response(total: int):
    for solved, drawn in itertools.product(range(total + 1), range(1, total + 1)):
        right = [number < solved for number in range(total)]
        subsets = list(itertools.combinations(right, drawn))
        assert pass_at(total, solved, drawn) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_the_ks_are_powers_of_two_and_the_number_of_samples():
    assert [draws(samples) for samples in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]


def test_a_mean_weighs_prompts_equally_however_many_responses_were_judged():
    found = measure([responses(1.0, 0.0), responses(1.0, None), responses(None, None), []], 2, 1.0, seed=0)
    assert found["mean@2"].value == pytest.approx((0.5 + 1.0) / 2)
    assert found["pass@1"].value == pytest.approx((0.5 + 1.0) / 2)
    assert found["pass@2"].value == 1.0  # of the one prompt with two judged responses


def test_parts_lengths_and_truncation():
    prompts = [
        [
            MeasuredResponse(1.5, 2, truncated=False, parts={"exact": 1.0, "format": 0.5}),
            MeasuredResponse(0.5, 10, truncated=True, parts={"exact": 0.0, "format": 0.5}),
        ],
        [MeasuredResponse(0.0, 4, truncated=False, parts={"exact": 0.0}), MeasuredResponse(None, 4, truncated=False)],
    ]
    found = {name: interval.value for name, interval in measure(prompts, 2, 1.0, seed=3).items()}
    assert found == pytest.approx(
        {
            "mean@2": 0.5, "pass@1": 0.25, "pass@2": 1.0, "part/exact": 0.25, "part/format": 0.5, "truncated": 0.25,
            "length_mean": 5.0, "length_p50": 4.0, "length_p95": 9.1, "length_max": 10.0,
        }
    )  # fmt: skip


def test_nothing_judged_leaves_no_reward_and_no_made_up_number():
    assert "mean@1" not in measure([responses(None)], 1, 1.0, seed=0)
    assert measure([[], []], 1, 1.0, seed=0) == {}


def test_an_interval_is_that_of_an_independent_bootstrap():
    values = [0.0] * 40 + [1.0] * 60
    found = mean_interval(values, seed=7)
    random_source = random.Random(11)
    means = sorted(statistics.fmean(random_source.choices(values, k=100)) for _ in range(20_000))
    assert found.value == 0.6
    assert found.low == pytest.approx(means[500], abs=0.012)
    assert found.high == pytest.approx(means[19_499], abs=0.012)


def test_intervals_are_over_prompts_and_not_over_responses():
    alike = [
        [*responses(*([float(number % 2)] * 64))] for number in range(16)
    ]  # 64 equal responses to each of 16 prompts
    found = measure(alike, 64, 1.0, seed=1)["mean@64"]
    assert found.high - found.low > 0.3  # 2 * 1.96 * sqrt(0.25 / 16) = 0.49; over 1024 responses it would be 0.06


def test_equal_seeds_give_equal_intervals_and_every_interval_contains_its_value():
    source = random.Random(0)
    prompts = [
        [MeasuredResponse(source.random(), source.randrange(1, 99), truncated=False) for _ in range(4)]
        for _ in range(9)
    ]
    first = measure(prompts, 4, 0.5, seed=5)
    assert first == measure(prompts, 4, 0.5, seed=5)
    assert first["mean@4"] != measure(prompts, 4, 0.5, seed=6)["mean@4"]
    assert all(one.low <= one.value <= one.high for one in first.values())
    assert mean_interval([2.0], seed=0) == Interval(2.0, 2.0, 2.0)
