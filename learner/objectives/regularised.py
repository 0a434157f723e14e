"""Terms that can be added to any objective: KL to a frozen reference, and an entropy bonus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from learner.objectives.base import Loss, Objective, Responses
from learner.objectives.ratio import LIMIT, log_ratio


class Regularised(Objective):
    """An objective with a KL term and an entropy term added: L = L_objective + kl * KL(pi || ref) - entropy * H(pi).

    Both terms are per token and reduced over tokens as the objective reduces its own (its ``weighting``), over *all*
    responses: they do not vanish with the advantage, so groups without contrast are forwarded too.

    KL is Schulman's k3 estimator on sampled tokens, which GRPO uses too (arXiv 2402.03300): exp(d) - d - 1 with d = log ref -
    log pi, clamped to +-20. It is >= 0, and unbiased if the tokens are sampled from pi. Here they are sampled from an older
    policy, so it is an approximation. It needs ``reference_logp``. Its gradient on log pi is kl * (1 - exp(d)).

    Weighted, that term is multiplied by r = pi / mu, as DeepSeek-V3.2 does (arXiv 2512.02556, equation 7), which makes it
    unbiased for tokens sampled from mu. r is differentiable, as in TRL (use_bias_correction_kl) and slime (use_unbiased_kl):
    only then is the gradient unbiased too. Derived here: it is kl * r * (log pi - log ref) on log pi, where k3 alone has no
    bound for tokens that the reference makes far likelier. log r is clamped to +-20; no gradient of r beyond it.

    The entropy bonus needs ``entropy``, differentiable. rho stays that of the objective alone.
    Metrics: kl_sum / kl_count (nats; tokens).

    Args:
        objective: the objective that the terms are added to.
        kl: coefficient of the KL term; 0: none.
        entropy: coefficient of the entropy bonus; 0: none.
        weighted: whether the KL term is multiplied by the ratio; the objective must need mu then.
    """

    def __init__(self, objective: Objective, kl: float = 0.0, entropy: float = 0.0, weighted: bool = False) -> None:
        self._objective = objective
        self._kl, self._entropy, self._weighted = kl, entropy, weighted
        self.weighting = replace(objective.weighting, keep="all")
        self.needs_behaviour = objective.needs_behaviour
        self.needs_reference = kl > 0
        self.needs_entropy = entropy > 0
        self.needs_survey = objective.needs_survey

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        """Computes the objective's own loss, without the added terms."""
        return self._objective.loss(logp, responses)

    def __call__(self, logp: Tensor, responses: Responses) -> Loss:
        self._check(logp, responses)
        loss, metrics = self._objective(logp, responses)
        if self._kl and responses.reference_logp is not None:
            distance = (responses.reference_logp - logp).clamp(-LIMIT, LIMIT)
            divergence = distance.exp() - distance - 1
            if self._weighted:
                divergence = log_ratio(logp, responses).exp() * divergence
            loss = loss + self._kl * self._objective.reduce(divergence, responses)
            metrics["kl_sum"] = divergence.detach().sum()
            metrics["kl_count"] = divergence.new_full((), len(divergence))
        if self._entropy and responses.entropy is not None:
            loss = loss - self._entropy * self._objective.reduce(responses.entropy, responses)
        return loss, metrics

    def survey(self, log_ratio: Tensor, advantage: Tensor) -> None:
        self._objective.survey(log_ratio, advantage)

    def observe(self, sums: dict[str, float]) -> None:
        self._objective.observe(sums)

    def state_dict(self) -> dict[str, Any]:
        return self._objective.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._objective.load_state_dict(state)
