"""The share and the rate of VCPO, from sums."""

from __future__ import annotations

import pytest

from learner.control.effective_sample import ess_rate, ess_share


def sums(weight: float, square: float, count: float) -> dict[str, float]:
    return {"ess_weight": weight, "ess_square": square, "ess_count": count}


def test_the_share_lies_between_one_response_and_all():
    assert ess_share(sums(4.0, 6.0, 3.0)) == pytest.approx(8 / 9)
    assert ess_share(sums(3e-20, 3e-40, 3)) == pytest.approx(1.0)  # equal weights, however small
    assert ess_share(sums(5.0, 25.0, 10)) == pytest.approx(0.1)  # one response has it all


@pytest.mark.parametrize(
    "broken", [sums(0.0, 0.0, 8), sums(float("nan"), float("nan"), 8), sums(1e200, float("inf"), 8)]
)
def test_what_cannot_be_known_counts_as_one_response(broken: dict[str, float]):
    assert ess_share(broken) == 1 / 8


def test_no_responses_and_no_weights_are_unknown():
    assert ess_share(sums(0.0, 0.0, 0.0)) is None
    assert ess_share({"rho_sum": 1.0}) is None


def test_the_rate_falls_with_the_root_of_the_share():
    assert ess_rate(0.4, 0.25) == pytest.approx(0.2)
    assert ess_rate(0.4, 1.0) == 0.4
    assert ess_rate(0.4, None) == 0.4
