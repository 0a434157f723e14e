"""M2PO: bounds the mean square of the log-ratio, the second moment, of the tokens that are trained on. It needs log mu."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from learner.batch.weighting import Weighting
from learner.objectives.base import Loss, MissingInputError, Objective, Responses
from learner.objectives.ratio import LIMIT, log_ratio, share

Over = Literal["response", "batch"]
_MOVED = 1e-4  # nats; of a smaller log-ratio rounding decides the sign


class M2po(Objective):
    """M2PO, which masks the largest (log r)^2 until the mean of the others is at most ``threshold`` (arXiv 2510.01161).

        L = -(1/G) sum_g (1/m_g) sum_i M_i r_i A_g,    A = (reward - mean) / std

    threshold = 0.04 is the paper's. Needs mu. Our choice: normalised as GRPO; the paper's mean over tokens is mean = "group".

    over = "batch" is the paper's Algorithm 1. The mean is over the step's tokens that A pushes further from mu, those with
    A > 0 and r > 1 or A < 0 and r < 1, and only they are masked. It needs the whole step before its first loss, hence
    ``survey``, and one more forward pass. Our choice: the limit lies half-way between the last token kept and the first one
    masked, because the survey and the training pass may round differently; tokens of equal (log r)^2 are kept or masked
    together; and tokens of the current version, whose log r is rounding, at most 1e-4, do not count in the mean. The authors'
    code takes each micro-batch by itself, so that its mask depends on how a step is cut.

    over = "response" is ours, without another pass: within each response, over all its tokens, whatever the direction. It is
    stricter, as other responses do not outweigh a far token.

    Metric of its own, over = "batch": m2po_limit, the step's limit of |log r| in nats.

    Args:
        threshold: largest mean of (log r)^2.
        over: what that mean is over.
    """

    weighting = Weighting(advantage="std")
    needs_behaviour = True

    def __init__(self, threshold: float = 0.04, over: Over = "response") -> None:
        self._threshold = threshold
        self.needs_survey = over == "batch"
        self._limit: float | None = None  # of (log r)^2, in the step whose losses are being computed

    def survey(self, log_ratio: Tensor, advantage: Tensor) -> None:
        log_r = log_ratio.double().clamp(-LIMIT, LIMIT)
        self._limit = _limit(log_r[_outward(log_r, advantage)].square(), self._threshold)

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        log_r, advantage = log_ratio(logp, responses), responses.advantage[responses.row]
        squares = log_r.detach().square()
        if not self.needs_survey:
            masked = ~_within_mean(squares, responses, self._threshold)
        elif self._limit is None:
            raise MissingInputError('M2po over "batch" needs the survey of the whole step before its losses')
        else:
            masked = _outward(log_r.detach(), advantage) & (squares > self._limit)
        surrogate = torch.where(masked, 0.0, log_r.exp() * advantage)
        return -self.reduce(surrogate, responses), share("clipped", masked) | self._limit_metric(logp)

    def _limit_metric(self, logp: Tensor) -> dict[str, Tensor]:
        """The step's limit of |log r|, nats, which every micro-batch reports alike; none if no token is masked."""
        if self._limit is None:
            return {}
        limit = math.sqrt(self._limit) if math.isfinite(self._limit) else None
        sums = {"m2po_limit_sum": limit or 0.0, "m2po_limit_count": float(limit is not None)}
        return {name: logp.new_tensor(value) for name, value in sums.items()}

    def observe(self, sums: dict[str, float]) -> None:
        self._limit = None  # the next step needs a survey of its own


def _outward(log_r: Tensor, advantage: Tensor) -> Tensor:
    """Flags the tokens that their advantage pushes further from the behaviour policy."""
    return (log_r * advantage > 0) & (log_r.abs() > _MOVED)


def _limit(squares: Tensor, bound: float) -> float:
    """Finds the limit below which ``squares`` [n] have a mean of at most ``bound``, as many of them as there can be."""
    ascending = squares.sort().values
    ranks = torch.arange(1, len(ascending) + 1, dtype=torch.float64)
    kept = int((ascending.cumsum(0) / ranks <= bound).sum())  # means of ascending values ascend
    if kept == len(ascending):
        return math.inf
    first = float(ascending[kept])
    below = ascending[ascending < first]
    return (first + (float(below[-1]) if len(below) else 0.0)) / 2


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
