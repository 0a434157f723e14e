"""Objectives that bound how far a token's probability moves from the one it was generated with.

They need log mu of the sampled tokens (``behaviour_logp``) and nothing of the rest of the vocabulary. pi is the current
probability of the token, mu its behaviour probability, and r = pi / mu.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from learner.batch.weighting import Weighting
from learner.objectives.base import Loss, Objective, Responses
from learner.objectives.ratio import log_ratio, share

Divergence = Literal["tv", "kl"]
_SMALLEST = 1e-12  # least 1 - p: a certain token has 1 - p = 0, and no logarithm


class Dppo(Objective):
    """DPPO, which masks tokens beyond a bound on their divergence (arXiv 2602.04879; formulas from its official code).

        L = -(1/sum m) sum_g sum_i M_i A_g sg(min(r_i, 20)) log pi_i
        tv: M = [pi - mu <= bound] where A > 0, [pi - mu >= -bound] elsewhere;    bound 0.15
        kl: M = [KL(Bernoulli(mu) || Bernoulli(pi)) <= bound], or the token is moving back towards mu;    bound 0.05

    Normalised by the step's tokens, as verl's port does. Needs mu. Our choice: A is mean-centred.
    """

    weighting = Weighting(mean="batch")
    needs_behaviour = True

    def __init__(self, divergence: Divergence = "tv", bound: float = 0.15) -> None:
        self._divergence, self._bound = divergence, bound

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        assert responses.behaviour_logp is not None
        advantage = responses.advantage[responses.row]
        ratio = log_ratio(logp.detach(), responses).exp().clamp(max=20.0)
        moved = logp.detach().exp() - responses.behaviour_logp.exp()
        outward = torch.where(advantage > 0, moved, -moved)  # how far the token has already moved in the direction of A
        if self._divergence == "tv":
            masked = outward > self._bound
        else:
            masked = (outward > 0) & (_bernoulli_kl(responses.behaviour_logp, logp.detach()) > self._bound)
        weighted = torch.where(masked, 0.0, ratio * advantage) * logp
        return -self.reduce(weighted, responses), share("clipped", masked)


class Drpo(Objective):
    """DRPO, which penalises the divergence instead of masking tokens (arXiv 2606.09821; formula from its official code).

        maximise (1/sum m) sum_g sum_i r_i A_g - |A_g| / (2 delta) mu_i (r_i - 1)^2
        = weight w_i = 1 - sign(A (r - 1)) |pi - mu| / delta on r A grad log pi

    From the code: r stays differentiable and is not truncated (log r is clamped to +-20); one update per batch; A is
    mean-centred; delta = 12.5. Derived here: at that delta w stays within [0.92, 1.08], and only a delta below 1 pulls tokens
    back. Our choice: normalised by the step's tokens. Needs mu.
    """

    weighting = Weighting(mean="batch")
    needs_behaviour = True

    def __init__(self, delta: float = 12.5) -> None:
        self._delta = delta

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        assert responses.behaviour_logp is not None
        advantage = responses.advantage[responses.row]
        ratio = log_ratio(logp, responses).exp()
        penalty = advantage.abs() / (2 * self._delta) * responses.behaviour_logp.exp() * (ratio - 1).square()
        outward = (logp.detach().exp() - responses.behaviour_logp.exp()) * advantage.sign()
        return -self.reduce(ratio * advantage - penalty, responses), share("clipped", outward > self._delta)


class M2po(Objective):
    """M2PO, which masks the largest (log r)^2 until the mean of the others is at most ``threshold`` (arXiv 2510.01161).

        L = -(1/G) sum_g (1/m_g) sum_i M_i r_i A_g,    A = (reward - mean) / std

    threshold = 0.04 is the paper's. The paper masks over the whole batch; our choice is to mask within each response, because
    only then is the gradient independent of how the batch is cut. That is stricter: other responses do not outweigh a far
    token. Our choice: normalised as GRPO. Needs mu.
    """

    weighting = Weighting(advantage="std")
    needs_behaviour = True

    def __init__(self, threshold: float = 0.04) -> None:
        self._threshold = threshold

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        log_r = log_ratio(logp, responses)
        masked = ~_within_mean(log_r.detach().square(), responses, self._threshold)
        surrogate = torch.where(masked, 0.0, log_r.exp() * responses.advantage[responses.row])
        return -self.reduce(surrogate, responses), share("clipped", masked)


def _within_mean(values: Tensor, responses: Responses, bound: float) -> Tensor:
    """Flags in each response the smallest ``values`` [L], as many as have a mean of at most ``bound``: [L] bool."""
    ascending = values.argsort(stable=True)
    order = ascending[responses.row[ascending].argsort(stable=True)]  # by response, then by value
    row = responses.row[order]
    sums = values[order].double().cumsum(0)
    ranks = torch.arange(1, len(values) + 1, device=values.device, dtype=torch.float64)
    ends = responses.total(torch.ones_like(row)).cumsum(0)  # bincount would wait for a GPU
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])[row]
    before = torch.cat([sums.new_zeros(1), sums])[starts]
    within = (sums - before) / (ranks - starts) <= bound
    return torch.zeros_like(within).index_put((order,), within)


def _bernoulli_kl(log_mu: Tensor, log_pi: Tensor) -> Tensor:
    """Computes KL(Bernoulli(mu) || Bernoulli(pi)) elementwise, in nats."""
    rest_mu = (-log_mu.expm1()).clamp(min=_SMALLEST)
    rest_pi = (-log_pi.expm1()).clamp(min=_SMALLEST)
    return log_mu.exp() * (log_mu - log_pi) + rest_mu * (rest_mu.log() - rest_pi.log())
