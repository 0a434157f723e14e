"""Objectives on the probability ratio of whole responses. They need log mu of the sampled tokens (``behaviour_logp``)."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.batch.weighting import Weighting
from learner.objectives.base import Loss, Objective, Responses
from learner.objectives.ratio import clipped_surrogate, log_ratio, share


class Gspo(Objective):
    """GSPO, which clips one ratio for the whole response (arXiv 2507.18071).

        maximise (1/G) sum_g min(s_g A_g, clip(s_g, 1 - low, 1 + high) A_g)
        s_g = exp((1/m_g) sum_i log r_i),    A = (reward - mean) / std

    s is the geometric mean of the response's token ratios. Normalised by 1/m inside s, by 1/G and by the group's std. Needs
    mu. low = 3e-4 and high = 4e-4 are the paper's values: far smaller than GRPO's, because s averages over the response.
    """

    weighting = Weighting(advantage="std")
    needs_behaviour = True

    def __init__(self, low: float = 3e-4, high: float = 4e-4) -> None:
        self._low, self._high = low, high

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        ratio = responses.mean(log_ratio(logp, responses)).exp()
        surrogate, clipped = clipped_surrogate(ratio, responses.advantage, self._low, self._high)
        return -(responses.weight * surrogate).sum(), share("clipped", clipped)


class Topr(Objective):
    """TOPR, tapered off-policy REINFORCE (arXiv 2503.14286).

        L = -(1/G) sum_g w_g A_g log p(y_g),    w_g = 1 where A_g >= 0, sg(min(pi(y_g) / mu(y_g), 1)) where A_g < 0

    log p(y) = sum_i log p_i; the ratio is the whole response's, so a negative that has become unlikely loses its weight.
    Normalised by 1/G, not by length. Needs mu. The paper's rewards are +-1 and their sign decides; our choice is the sign of
    the centred advantage.
    """

    weighting = Weighting(mean="sum")
    needs_behaviour = True

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        log_weight = responses.total(log_ratio(logp.detach(), responses)).clamp(max=0.0)
        weight = torch.where(responses.advantage >= 0, 1.0, log_weight.exp())
        tapered = (responses.advantage < 0) & (log_weight < 0)
        return -self.reduce((weight * responses.advantage)[responses.row] * logp, responses), share("clipped", tapered)
