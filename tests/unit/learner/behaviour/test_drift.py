"""Drift by staleness, with numbers worked by hand."""

import math

import pytest
import torch

from learner.behaviour.drift import bucket_count, drift_row, drift_sums


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_two_tokens_by_hand():
    """With w = 2 and 0.5 the mean log is 0 and (2.5)^2 / (2 * 4.25) effective; |0.4 - 0.2| exceeds 0.15, 0.1 does not."""
    row = drift_row(drift_sums(logs(0.4, 0.1), logs(0.2, 0.2), torch.tensor([3, 3]), bucket_count(18)))
    assert row["true_drift"] == pytest.approx(0.0, abs=1e-7)
    assert row["effective_share"] == pytest.approx(6.25 / 8.5)
    assert row["beyond_bound"] == 0.5
    assert row["drift_tokens"] == 2
    assert row["drift_staleness"] == {"2-3": pytest.approx([0.0, 6.25 / 8.5, 0.5, 2], abs=1e-7)}


def test_buckets_of_ages():
    ages = torch.tensor([0, 1, 2, 3, 4, 7, 8, 15, 16, 18])
    same = logs(*[0.5] * 10)
    row = drift_row(drift_sums(same, same, ages, bucket_count(18)))
    tokens = {age: figures[3] for age, figures in row["drift_staleness"].items()}
    assert tokens == {"0": 1, "1": 1, "2-3": 2, "4-7": 2, "8-15": 2, "16-31": 2}
    assert (row["true_drift"], row["effective_share"], row["beyond_bound"]) == (0.0, 1.0, 0.0)
    assert bucket_count(0) == 1
    assert bucket_count(1) == 2


def test_sums_add_up_over_ranks_however_the_tokens_are_cut():
    draw = torch.Generator().manual_seed(0)
    pi, mu = (-torch.rand(40, generator=draw) for _ in range(2))
    ages = torch.randint(0, 9, (40,), generator=draw)
    whole = drift_sums(pi, mu, ages, 5)
    cut = drift_sums(pi[:13], mu[:13], ages[:13], 5) + drift_sums(pi[13:], mu[13:], ages[13:], 5)
    assert torch.allclose(whole, cut)
    assert drift_row(whole)["drift_tokens"] == 40


def test_a_far_token_is_finite_and_an_empty_sample_is_not_known():
    row = drift_row(drift_sums(torch.tensor([-900.0]), torch.tensor([-1.0]), torch.tensor([1]), 2))
    assert row["true_drift"] == -20.0
    assert all(math.isfinite(row[name]) for name in ("effective_share", "beyond_bound"))
    empty = torch.zeros(0)
    row = drift_row(drift_sums(empty, empty, torch.zeros(0, dtype=torch.int64), 3))
    assert row == {
        "true_drift": None, "effective_share": None, "beyond_bound": None, "drift_tokens": 0, "drift_staleness": {},
    }  # fmt: skip
