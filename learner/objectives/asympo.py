"""ASymPO (arXiv 2606.03070): each response's surprise divided by its own value; optionally with a guard on rho."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner.objectives.base import Loss, Objective, Responses


@dataclass
class RhoGuard:
    """Bounds what negatives weigh against positives (our own; evidence.md).

    ASymPO's rho is about S_P / S_N, the mean scales of positives and negatives: where right and wrong answers are equally
    likely nothing protects. Negatives are scaled by min(1, rho_max * E[S_N] / E[S_P]), E an exponential mean over the steps
    *before* this one, which makes rho about min(S_P / S_N, rho_max). Before the first step the scales are taken as equal.
    The means come from the metrics the step reduces over all ranks anyway: no extra pass, no extra collective.
    """

    rho_max: float
    decay: float = 0.9
    positive: float | None = None  # E[S_P], nats/token
    negative: float | None = None  # E[S_N]

    def factor(self) -> float:
        """What negatives are multiplied by in this step, in (0, 1]."""
        if self.positive is None or self.negative is None:
            return min(1.0, self.rho_max)
        return min(1.0, self.rho_max * self.negative / self.positive) if self.positive > 0 else 1.0

    def observe(self, sums: dict[str, float]) -> None:
        """Mixes in the scales of a step; a step without positives or without negatives leaves that mean as it is."""
        self.positive = self._mixed(self.positive, sums, "nll_positive")
        self.negative = self._mixed(self.negative, sums, "nll_negative")

    def _mixed(self, old: float | None, sums: dict[str, float], name: str) -> float | None:
        count = sums[f"{name}_count"]
        new = sums[f"{name}_sum"] / count if count else math.nan
        if not math.isfinite(new):
            return old
        return new if old is None else self.decay * old + (1 - self.decay) * new


class Asympo(Objective):
    """The objective of the paper:

        L = (1/G) sum_g A_g S_g / sg(max(S_g, floor))          gradient: (1/G) sum_g (A_g / S_g) grad S_g

    sg = stop-gradient. [P] Both signs of the advantage get the same forward mass, so the loss is 0 per group and only the
    gradient says anything. Normalised by the response's own total NLL, 1/G within a group, then the mean over prompts.
    Needs nothing but the current log-probabilities.

    floor (nats/token) bounds 1 / S_g for near-certain responses, where S_g is rounding noise; the paper names it and gives
    no value.

    p_low, p_high (Appendix C [P]): log p is clipped to at most log p_high where A_g >= 0 and to at least log p_low where
    A_g < 0, before averaging. Clipped tokens stay in S_g, numerator and denominator, and give no gradient.

    guard: see RhoGuard; None is the paper's formula. With it the forward loss of a group is B (1 - factor) / G, not 0.
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
        count = responses.weight.new_tensor(float(len(responses.weight)))
        return (responses.weight * advantage * balanced).sum(), {
            "clipped_sum": (clipped != logp).float().sum(),
            "clipped_count": count.new_tensor(float(len(logp))),
            "guard_sum": factor * count,
            "guard_count": count,
        }

    def observe(self, sums: dict[str, float]) -> None:
        if self._guard:
            self._guard.observe(sums)

    def state_dict(self) -> dict[str, Any]:
        return {"positive": self._guard.positive, "negative": self._guard.negative} if self._guard else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._guard:  # turned on or off between two runs: begin anew, or drop what is not used
            self._guard.positive, self._guard.negative = state.get("positive"), state.get("negative")

    def _clip(self, logp: Tensor, responses: Responses) -> Tensor:
        positive = responses.advantage[responses.row] >= 0
        if self._high is not None:
            logp = torch.where(positive, logp.clamp(max=self._high), logp)
        if self._low is not None:
            logp = torch.where(positive, logp, logp.clamp(min=self._low))
        return logp
