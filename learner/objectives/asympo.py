"""ASymPO (arXiv 2606.03070v3): each response's NLL divided by its own current value; optionally with a guard on rho."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner.objectives.base import Loss, Objective, Responses

_LEAST_FACTOR = 1e-6  # not 0: the weight of the negatives could not be measured any more


@dataclass
class RhoGuard:
    """Bounds the weight of negatives against positives, rho. Our own addition, not the paper's (docs/objectives.md).

    ASymPO's rho is near 1 where right and wrong answers are equally likely, and above it where a few wrong ones are nearly
    certain: a response weighs |A_g| / S_g. The guard multiplies negatives by f = min(1, rho_max * E[P] / E[N]), where P is
    the weight of a step's positives, N that of its negatives before f, and E an exponential mean over the steps *before*
    this one. So the weight of negatives over many steps is at most rho_max times that of positives, however the scales
    spread; a single step may exceed it. Before the first step P and N are assumed equal, as their advantages are. Both are
    metrics that every step reduces over all ranks anyway: the guard costs no extra pass and no extra collective.

    Attributes:
        rho_max: largest rho.
        decay: decay of the exponential means.
        positive: E[P], times a factor that ``negative`` has too; 0 before the first step.
        negative: E[N], times that factor.
    """

    rho_max: float
    decay: float = 0.9
    positive: float = 0.0
    negative: float = 0.0

    def factor(self) -> float:
        """Factor on the advantage of negatives in this step, in (0, 1]."""
        ratio = self.positive / self.negative if self.negative > 0 else 1.0
        return min(1.0, max(_LEAST_FACTOR, self.rho_max * ratio))

    def observe(self, sums: dict[str, float]) -> None:
        """Updates the means with a step's sums; ``factor`` must still be what the step was made with."""
        raised, lowered = sums["rho_count"], sums["rho_sum"] / self.factor()
        if math.isfinite(raised) and math.isfinite(lowered) and raised + lowered > 0:
            self.positive = self.decay * self.positive + (1 - self.decay) * raised
            self.negative = self.decay * self.negative + (1 - self.decay) * lowered


class Asympo(Objective):
    """ASymPO, which weights each response by the inverse of its own NLL (arXiv 2606.03070v3).

        L = (1/G) sum_g A_g S_g / sg(max(S_g, floor))          gradient: (1/G) sum_g (A_g / S_g) grad S_g

    sg is the stop-gradient. From the paper: both signs of the advantage get the same forward mass, so the loss of a group is
    0 and only its gradient carries information. Normalised by the response's own total NLL, by 1/G within a group, then
    averaged over prompts. Needs only the current log-probabilities.

    Args:
        floor: nats/token; bounds 1 / S_g of near-certain responses, where S_g is rounding noise. The paper names it and gives
            no value; the value is our choice.
        p_low: from the paper's Appendix C: where A_g < 0, log p is clipped to at least log p_low before averaging. Clipped
            tokens stay in S_g, in numerator and denominator, and give no gradient. None: no clip.
        p_high: where A_g >= 0, log p is clipped to at most log p_high in the same way. None: no clip.
        guard: bound on rho; None is the paper's formula. With it the forward loss of a group is B (1 - factor) / G, not 0; B
            is the sum of the group's positive advantages.
    """

    def __init__(
        self,
        floor: float = 1e-3,
        p_low: float | None = None,
        p_high: float | None = None,
        guard: RhoGuard | None = None,
    ) -> None:
        self._floor = floor
        self._low = None if p_low is None else math.log(p_low)
        self._high = None if p_high is None else math.log(p_high)
        self._guard = guard

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        clipped = self._clip(logp, responses)
        scale = responses.scale(clipped)
        balanced = scale / scale.detach().clamp(min=self._floor)
        factor = self._guard.factor() if self._guard else 1.0
        advantage = torch.where(responses.advantage >= 0, responses.advantage, factor * responses.advantage)
        count = responses.weight.new_full((), len(responses.weight))
        return (responses.weight * advantage * balanced).sum(), {
            "clipped_sum": (clipped != logp).float().sum(),
            "clipped_count": count.new_full((), len(logp)),
            "guard_sum": factor * count,
            "guard_count": count,
        }

    def observe(self, sums: dict[str, float]) -> None:
        if self._guard:
            self._guard.observe(sums)

    def state_dict(self) -> dict[str, Any]:
        return {"positive": self._guard.positive, "negative": self._guard.negative} if self._guard else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if (
            self._guard
        ):  # if it was turned on between two runs it starts anew; if it was turned off the state is ignored
            self._guard.positive, self._guard.negative = state.get("positive", 0.0), state.get("negative", 0.0)

    def _clip(self, logp: Tensor, responses: Responses) -> Tensor:
        positive = responses.advantage[responses.row] >= 0
        if self._high is not None:
            logp = torch.where(positive, logp.clamp(max=self._high), logp)
        if self._low is not None:
            logp = torch.where(positive, logp, logp.clamp(min=self._low))
        return logp
