"""Means over seeds with bootstrap intervals, differences of pairs, and the fit of a power."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_EXACT = 6  # seeds up to which all resamples are counted instead of drawn: 6 ** 6 = 46,656
_DRAWN = 10_000
_SHARE = 95.0  # percent


@dataclass(frozen=True)
class Estimate:
    """A mean over ``seeds`` runs, and the interval that holds 95% of the means of resampled runs.

    With few seeds such an interval is too narrow: of five, it covers the true mean in about 85% of cases. Of one seed it is
    the value itself.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 if the whole interval is above 0, -1 if it is below, else 0; 0 for fewer than three seeds."""
        if self.seeds < 3:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def estimate(values: Sequence[float]) -> Estimate:
    """Bootstrap of the mean (percentile method); exact for up to six values, else 10,000 resamples of a fixed draw.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("estimate: no values")
    given, count = np.array(values, dtype=np.float64), len(values)
    if count <= _EXACT:
        chosen = np.array(list(itertools.product(range(count), repeat=count)))
    else:
        chosen = np.random.default_rng(0).integers(count, size=(_DRAWN, count))
    tail = (100 - _SHARE) / 2
    low, high = np.percentile(given[chosen].mean(1), [tail, 100 - tail])
    return Estimate(float(given.mean()), float(low), float(high), count)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """Estimates the mean of ``values`` minus ``baseline`` over the seeds that both have; None if there is none."""
    seeds = sorted(values.keys() & baseline.keys())
    return estimate([values[seed] - baseline[seed] for seed in seeds]) if seeds else None


def largest_stable(rewards: Mapping[float, float], share: float = 0.9) -> float | None:
    """Largest learning rate that still earns ``share`` of what the best one does.

    Between the last rate that does and the next one, it is interpolated in the logarithm of the rate.

    Args:
        rewards: mean final reward by learning rate.
        share: of the best reward.

    Returns:
        None if there are fewer than two rates, or the largest of them still does: the limit is beyond it.
    """
    rates = sorted(rewards)
    if len(rates) < 2:
        return None
    wanted = share * max(rewards.values())
    last = max(index for index, rate in enumerate(rates) if rewards[rate] >= wanted)
    if last == len(rates) - 1:
        return None
    near, far = rates[last], rates[last + 1]
    way = (rewards[near] - wanted) / (rewards[near] - rewards[far])
    return near * (far / near) ** way


def exponent(points: Mapping[float, float]) -> float | None:
    """Slope of the least-squares line of log y over log x, for y by x > 0; None for fewer than two points."""
    known = [(math.log(x), math.log(y)) for x, y in points.items() if x > 0 and y > 0]
    if len(known) < 2:
        return None
    xs, ys = zip(*known, strict=True)
    return float(np.polyfit(xs, ys, 1)[0])
