"""Means with intervals of what the responses to a set of prompts are worth: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

RESAMPLES = 2000
_TAIL = 2.5  # per cent on each side of the interval


@dataclass(frozen=True)
class MeasuredResponse:
    """What is counted of one response.

    Attributes:
        reward: None: nobody could judge it.
        parts: the reward's parts, by name.
        tokens: number of generated tokens.
        truncated: whether the length limit cut it off.
    """

    reward: float | None
    tokens: int
    truncated: bool
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """A statistic, and its interval of 95 %; low <= value <= high."""

    value: float
    low: float
    high: float


def measure(
    prompts: Sequence[Sequence[MeasuredResponse]], samples: int, solved_at: float, seed: int
) -> dict[str, Interval]:
    """Returns every metric of an evaluation, by name; one that nothing is known of is left out.

    mean@k: mean over prompts of the mean reward of their judged responses, k responses having been asked for. pass@j for
    j = 1, 2, 4, ... k: probability that one of j responses is right, unbiased (Chen et al. 2021), over the prompts with j
    judged responses. part/NAME: as mean@k, of a part. truncated, length_mean, length_p50, length_p95, length_max: of all
    responses. The intervals are percentiles of a bootstrap over prompts, because the responses to one prompt resemble each
    other; the maximum has none, and is its own.

    Args:
        prompts: the responses to each prompt, none perhaps.
        samples: k, responses that were asked for per prompt.
        solved_at: reward from which a response counts as right.
        seed: of the bootstrap; equal seeds give equal intervals.
    """
    rewards = [[one.reward for one in responses if one.reward is not None] for responses in prompts]
    metrics: dict[str, Interval] = {}

    def add(name: str, values: Sequence[float]) -> None:
        if values:
            metrics[name] = mean_interval(values, seed)

    add(f"mean@{samples}", [math.fsum(known) / len(known) for known in rewards if known])
    for drawn in draws(samples):
        right = [(len(known), sum(reward >= solved_at for reward in known)) for known in rewards]
        add(f"pass@{drawn}", [pass_at(total, solved, drawn) for total, solved in right if total >= drawn])
    for part in sorted({name for responses in prompts for one in responses for name in one.parts}):
        known = [[one.parts[part] for one in responses if part in one.parts] for responses in prompts]
        add(f"part/{part}", [math.fsum(values) / len(values) for values in known if values])
    answered = [responses for responses in prompts if responses]
    add("truncated", [sum(one.truncated for one in responses) / len(responses) for responses in answered])
    lengths = [np.array([one.tokens for one in responses], dtype=np.float64) for responses in answered]
    if lengths:
        metrics |= _lengths(lengths, seed)
    return metrics


def draws(samples: int) -> list[int]:
    """The numbers of responses for which pass@k is computed: 1, 2, 4, ... and ``samples`` itself."""
    powers = [1 << power for power in range(samples.bit_length()) if 1 << power <= samples]
    return sorted({*powers, samples})


def pass_at(total: int, solved: int, drawn: int) -> float:
    """The unbiased estimate of the probability that at least one of ``drawn`` responses is right.

    It is 1 - C(total - solved, drawn) / C(total, drawn): the share of the ways to draw that have a right one.

    Args:
        total: number of responses, at least ``drawn``.
        solved: how many of them are right.
        drawn: how many are drawn.
    """
    return 1.0 - math.comb(total - solved, drawn) / math.comb(total, drawn)


def mean_interval(values: Sequence[float], seed: int) -> Interval:
    """The mean of one number per prompt, with its interval by bootstrap over prompts.

    Args:
        values: at least one number.
        seed: of the bootstrap.
    """
    numbers = np.asarray(values, dtype=np.float64)
    return _interval(float(numbers.mean()), len(numbers), lambda drawn: float(numbers[drawn].mean()), seed)


def _lengths(lengths: Sequence[np.ndarray], seed: int) -> dict[str, Interval]:
    """Statistics of the lengths of all responses, in tokens; prompts are drawn with all their responses."""
    together = np.concatenate(lengths)
    functions: dict[str, Callable[[np.ndarray], float]] = {
        "length_mean": lambda values: float(values.mean()),
        "length_p50": lambda values: float(np.percentile(values, 50)),
        "length_p95": lambda values: float(np.percentile(values, 95)),
    }
    found = {
        name: _interval(
            function(together),
            len(lengths),
            lambda drawn, function=function: function(np.concatenate([lengths[index] for index in drawn])),
            seed,
        )
        for name, function in functions.items()
    }
    longest = float(together.max())
    return found | {"length_max": Interval(longest, longest, longest)}


def _interval(value: float, prompts: int, statistic: Callable[[np.ndarray], float], seed: int) -> Interval:
    """A statistic with the percentiles of its bootstrap distribution, which are widened to contain it where they do not."""
    drawn = np.random.default_rng(seed).integers(0, prompts, size=(RESAMPLES, prompts))
    found = [statistic(row) for row in drawn]
    low, high = np.percentile(found, [_TAIL, 100 - _TAIL])
    return Interval(value, min(value, float(low)), max(value, float(high)))
