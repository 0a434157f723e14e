"""The effective sample size of a step's responses, and the learning rate that it allows (VCPO, arXiv 2602.17616).

From the source (the authors' README and code; the paper itself we saw only in excerpts): rho = ESS / B with ESS = (sum w)^2 /
sum w^2 over the B responses of a step, and a rate of lr * sqrt(rho / rho_0), never above lr, decided for each step from that
step's own weights; rho_0 is 1 in all their scripts, and here. Their second part, a baseline of least variance, is not built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping


def ess_share(sums: Mapping[str, float]) -> float | None:
    """Computes the effective sample size of a step's responses as a share of their number, between 1 / n and 1.

    Args:
        sums: metrics of an objective, summed over the step: ess_weight, ess_square and ess_count, as
            `learner.objectives.effective_sample` has them.

    Returns:
        (sum w)^2 / (n sum w^2). 1 / n, the least that it can be, if the weights are so small, or so wrong, that it cannot be
        known. None without responses, and for an objective without importance weights.
    """
    count = sums.get("ess_count")
    if not count:
        return None
    weight, square = sums["ess_weight"], sums["ess_square"]
    if not (0 < square < math.inf and weight < math.inf):
        return 1 / count
    return max(1 / count, min(1.0, weight * weight / (count * square)))


def ess_rate(rate: float, share: float | None) -> float:
    """Lowers a learning rate to what the effective sample size allows: rate * sqrt(share); unchanged if that is None."""
    return rate if share is None else rate * math.sqrt(share)
