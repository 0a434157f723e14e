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

        L = -(1/sum m) sum_g sum_i M_i A_g sg(min(r_i, 20)) log pi_i - kl (log r_i)^2
        tv: M = [pi - mu <= high] where A > 0, [pi - mu >= -low] elsewhere;    low = high = 0.15
        kl: M = [KL(Bernoulli(mu) || Bernoulli(pi)) <= high] where A > 0, [... <= low] elsewhere, or the token is moving back
            towards mu;    low = high = 0.05

    Normalised by the step's tokens, as verl's port does; ``mean`` chooses another. Needs mu. From the code: the masks, with a
    bound for each direction, and the truncation at 20. From prime-rl's default loss: the term in kl, over all loss tokens,
    the masked ones too. That loss is tv with low = high = 0.2, kl = 1e-3 and a centred advantage; it does not truncate r. It
    calls the term a KL; derived here: to second order its mean over mu is 2 kl KL(mu || pi). As in prime-rl, responses with
    A = 0 are left out, and have no such term. Our choice: A is mean-centred.

    Args:
        divergence: tv (total variation), or kl.
        low: largest divergence of tokens that A < 0 pushes down.
        high: largest divergence of tokens that A > 0 pushes up.
        kl: coefficient of (log r)^2, per token.
    """

    weighting = Weighting(mean="batch")
    needs_behaviour = True

    def __init__(self, divergence: Divergence = "tv", low: float = 0.15, high: float = 0.15, kl: float = 0.0) -> None:
        self._divergence, self._low, self._high, self._kl = divergence, low, high, kl

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        assert responses.behaviour_logp is not None
        advantage = responses.advantage[responses.row]
        ratio = log_ratio(logp.detach(), responses).exp().clamp(max=20.0)
        moved = logp.detach().exp() - responses.behaviour_logp.exp()
        outward = torch.where(advantage > 0, moved, -moved)  # how far the token has already moved in the direction of A
        bound = torch.where(advantage > 0, self._high, torch.full_like(outward, self._low))
        if self._divergence == "tv":
            masked = outward > bound
        else:
            masked = (outward > 0) & (_bernoulli_kl(responses.behaviour_logp, logp.detach()) > bound)
        losses = -torch.where(masked, 0.0, ratio * advantage) * logp
        if self._kl:
            losses = losses + self._kl * log_ratio(logp, responses).square()
        return self.reduce(losses, responses), share("clipped", masked)


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


def _bernoulli_kl(log_mu: Tensor, log_pi: Tensor) -> Tensor:
    """Computes KL(Bernoulli(mu) || Bernoulli(pi)) elementwise, in nats."""
    rest_mu = (-log_mu.expm1()).clamp(min=_SMALLEST)
    rest_pi = (-log_pi.expm1()).clamp(min=_SMALLEST)
    return log_mu.exp() * (log_mu - log_pi) + rest_mu * (rest_mu.log() - rest_pi.log())
