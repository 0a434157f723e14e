"""Sums from which the effective sample size of a step's responses follows, as VCPO has it (arXiv 2602.17616).

From the source (the authors' README and code; the paper itself we saw only in excerpts): ESS = (sum w)^2 / sum w^2 over the
B responses of a step, with one importance weight w = pi(response) / mu(response) each, not truncated; its share is ESS / B.

Our choices: the responses counted are those that are trained, with at least one loss token. The weights are computed in
float64, and their logarithm is bounded at 300 nats instead of their 20: at 20, responses that are all far from mu would count
as equal, and so as a perfect sample.
"""

from __future__ import annotations

from torch import Tensor

_LARGEST = 300.0  # nats; a weight's square must be a float64, and so must the sum of many


def effective_sample_sums(log_weight: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Adds up the importance weights of responses.

    The sums of micro-batches and data ranks add up to those of the step. `learner.control.effective_sample.ess_share` turns
    them into the share.

    Args:
        log_weight: [R] float64, log pi - log mu of each response, summed over its loss tokens, nats. Above 300 it counts as
            300; a response below -300 has no weight.
        lengths: [R], loss tokens of each response; one without any is not counted.

    Returns:
        ess_weight: sum of w; ess_square: sum of w^2; ess_count: number of responses. All float64.
    """
    counted = lengths > 0
    weight = log_weight.clamp(max=_LARGEST).exp()
    weight = weight.where(counted & (log_weight >= -_LARGEST), 0.0)
    return {"ess_weight": weight.sum(), "ess_square": weight.square().sum(), "ess_count": counted.double().sum()}
