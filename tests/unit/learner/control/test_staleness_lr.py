"""The staleness-aware cap, by hand and on a delayed descent whose stable rate is known."""

import math
from collections import deque

import pytest

from learner.config.control import LrControlConfig
from learner.control.staleness_lr import PeakHoldAverage, StalenessBound
from runtime.settings import SettingsError


def control(**values: object) -> StalenessBound:
    return StalenessBound(LrControlConfig.parse({"mode": "cap", "smoothing": 0.0, **values}, "test"), steps=100)


def test_batch_bound_by_hand():
    bound = control(r_batch=6.0)
    bound.observe(update_norm=0.02, rate=0.01)  # G_upd = 2
    bounds = bound.bounds(1.0, staleness=4)
    assert bound.growth == pytest.approx(2.0)
    assert (bounds.batch, bounds.critical, bounds.active) == (pytest.approx(0.75), math.inf, "batch")
    assert bounds.rate == pytest.approx(0.75)  # 6 / (4 * 2)


def test_critical_bound_by_hand_and_the_lower_one_is_active():
    bound = control(r_batch=6.0, r_crit=20.0)
    bound.observe(0.02, 0.01)
    bounds = bound.bounds(1.0, staleness=4)
    assert bounds.critical == pytest.approx(0.1)  # 20 / (100 * 2)
    assert (bounds.active, bounds.rate) == ("critical", bounds.critical)
    assert bound.bounds(0.05, staleness=4).active == "none"
    assert bound.bounds(0.05, staleness=4).rate == 0.05


def test_on_policy_there_is_no_batch_bound_and_before_an_update_none_at_all():
    bound = control(r_batch=6.0, r_crit=1.0)
    assert bound.bounds(7.0, staleness=9).rate == 7.0
    bound.observe(0.02, 0.01)
    bound = control(r_batch=6.0)
    bound.observe(0.02, 0.01)
    assert bound.bounds(7.0, staleness=0).batch == math.inf
    assert bound.bounds(7.0, staleness=0).rate == 7.0


def test_a_first_step_is_bounded_by_what_may_come():
    bound = control(r_batch=6.0, smoothing=0.5)
    bound.expect(growth=10.0, staleness=4)
    assert bound.bounds(9.0, staleness=0).rate == pytest.approx(
        6.0 / (2 * 10)
    )  # S falls to the 0 that was measured, slowly
    bound.observe(0.02, 0.01)
    assert bound.growth == pytest.approx(6.0)


def test_a_frozen_step_and_a_broken_one_teach_nothing():
    bound = control(r_batch=6.0)
    bound.observe(0.0, 0.0)
    bound.observe(math.nan, 1.0)
    assert bound.growth is None


def test_observe_logs_the_bound_and_changes_nothing():
    bound = StalenessBound(LrControlConfig(mode="observe", r_batch=6.0), steps=100)
    bound.observe(0.02, 0.01)
    bounds = bound.bounds(1.0, staleness=4)
    assert (bounds.active, bounds.rate, bounds.batch) == ("batch", 1.0, pytest.approx(0.75))


def test_a_suddenly_stale_batch_is_bounded_at_once_and_a_fresh_one_does_not_lift_the_bound_at_once():
    bound = control(r_batch=6.0, smoothing=0.9)
    bound.observe(0.02, 0.01)
    assert bound.bounds(9.0, staleness=0).rate == 9.0
    assert bound.bounds(9.0, staleness=10).rate == pytest.approx(6.0 / (10 * 2))
    assert bound.bounds(9.0, staleness=0).rate < 9.0


def test_cap_without_a_radius_is_refused():
    with pytest.raises(SettingsError, match="needs r_batch, r_crit or both"):
        LrControlConfig.parse({"mode": "cap"}, "test")


def test_state_survives_a_checkpoint():
    bound = control(r_batch=6.0, smoothing=0.9)
    for norm in (0.02, 0.03, 0.01):
        bound.observe(norm, 0.01)
        bound.bounds(1.0, staleness=3)
    again = control(r_batch=6.0, smoothing=0.9)
    again.load_state_dict(bound.state_dict())
    assert again.bounds(1.0, staleness=2) == bound.bounds(1.0, staleness=2)


def test_envelope_rises_at_once_and_falls_slowly():
    envelope = PeakHoldAverage(0.9)
    seen = []
    for value in (2.0, 3.0, 1.0):
        envelope.add(value)
        seen.append(envelope.value)
    assert seen == pytest.approx([2.0, 3.0, 2.8])


CURVATURE = 2.0


def stable_rate(lag: int) -> float:
    """The largest rate at which x_{t+1} = x_t - eta * h * x_{t-S} settles.

    Its characteristic equation z^{S+1} = z^S - eta h leaves the unit circle at z = exp(i phi): eta h = |z^S (1 - z)| =
    2 sin(phi / 2), and the phases agree at phi = pi / (2 S + 1). So eta = 2 sin(pi / (2 (2 S + 1))) / h: 2 / h on policy,
    and about pi / (2 S h) for large S, the bound that falls as 1 / S.
    """
    return 2 * math.sin(math.pi / (2 * (2 * lag + 1))) / CURVATURE


def descend(
    lag: int, rate: float, bound: StalenessBound | None = None, steps: int = 3000
) -> tuple[list[float], list[float]]:
    """Positions and rates of a descent whose gradient is taken where the iterate was ``lag`` steps ago."""
    past = deque([1.0] * (lag + 1), maxlen=lag + 1)
    positions, rates = [1.0], []
    for _ in range(steps):
        eta = bound.bounds(rate, lag).rate if bound else rate
        step = eta * CURVATURE * past[0]
        if bound:
            bound.observe(abs(step), eta)
        past.append(past[-1] - step)
        positions.append(past[-1])
        rates.append(eta)
        if abs(past[-1]) > 1e6:
            break
    return positions, rates


@pytest.mark.parametrize("lag", [0, 1, 4, 16])
def test_the_stable_rate_of_the_delayed_descent_is_what_theory_says(lag: int):
    assert abs(descend(lag, 0.95 * stable_rate(lag))[0][-1]) < 1e-3
    assert abs(descend(lag, 1.05 * stable_rate(lag))[0][-1]) > 10


@pytest.mark.parametrize("lag", [1, 4, 16])
@pytest.mark.parametrize("excess", [1.5, 20.0])
def test_the_cap_holds_a_descent_that_diverges_without_it(lag: int, excess: float):
    """One radius serves every lag: at distance 1 the gradient, hence G_upd, is h, and the bound R / (S h) lies below the
    stable rate for all S >= 1 if R < min over S of 2 S sin(pi / (2 (2 S + 1))) = 1 (at S = 1).

    Without the cap the descent leaves for infinity. With it, it nears the optimum until G_upd has fallen so far that the
    scheduled rate is within the bound; unstable there, it is held in a cycle of about the radius.
    """
    rate = excess * stable_rate(lag)
    assert abs(descend(lag, rate, steps=20_000)[0][-1]) > 1e6
    bound = StalenessBound(LrControlConfig(mode="cap", r_batch=0.5), steps=1)
    bound.observe(CURVATURE * 1e-9, 1e-9)  # a first step that goes nowhere
    positions, rates = descend(lag, rate, bound)
    assert rates[0] == pytest.approx(0.5 / (lag * CURVATURE))
    assert rates[0] < stable_rate(lag)
    assert max(map(abs, positions)) < 1.5


def test_the_critical_bound_ends_a_straight_path_at_the_radius():
    """With updates of one direction and norm G = 5 per unit rate, T steps at R_crit / (T G) go exactly R_crit far."""
    bound = control(r_crit=3.0)
    bound.observe(0.05, 0.01)
    position = 0.0
    for _ in range(100):
        eta = bound.bounds(1.0, staleness=0).rate
        position += eta * 5.0
        bound.observe(eta * 5.0, eta)
    assert position == pytest.approx(3.0)
