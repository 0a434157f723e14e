"""The difference between two evaluations on the same prompts, with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 2000
_TAIL = 2.5  # per cent on each side of the interval


def paired_difference(
    before: Sequence[float | None], after: Sequence[float | None]
) -> tuple[float, float, float] | None:
    """The mean over prompts of what they gained, with its 95 % interval by bootstrap over prompts.

    Each prompt is compared with itself, so that what makes it hard or easy in both versions is no noise. The same numbers
    always give the same interval.

    Args:
        before: the mean of every prompt, in the order of the prompts; None: nothing is known of it.
        after: the same prompts, later.

    Returns:
        Value, low and high, low <= value <= high; None where the two have not the same number of prompts, or no prompt has
        both.
    """
    if len(before) != len(after):
        return None
    pairs = zip(before, after, strict=True)
    gains = np.array([new - old for old, new in pairs if old is not None and new is not None], dtype=np.float64)
    if not len(gains):
        return None
    drawn = np.random.default_rng(0).integers(0, len(gains), size=(_RESAMPLES, len(gains)))
    low, high = np.percentile(gains[drawn].mean(axis=1), [_TAIL, 100 - _TAIL])
    value = float(gains.mean())
    return value, min(value, float(low)), max(value, float(high))
