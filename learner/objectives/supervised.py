"""Supervised fine-tuning, the objective of warm starts."""

from __future__ import annotations

from torch import Tensor

from learner.batch.weighting import Weighting
from learner.objectives.base import Loss, Objective, Responses


class Sft(Objective):
    """Negative log-likelihood of the responses, summed over tokens and weighted. Advantages are not read.

    With ``Responses.weight`` = 1 / (all loss tokens of the step) this is the mean NLL per token. Needs no other
    log-probabilities.

    Metrics: ``nll_sum`` / ``nll_count`` (nats; tokens), and ``probability_sum`` / ``probability_count``: the probability of
    each whole response, which for a task with one right answer is the expected reward of sampling.
    """

    weighting = Weighting(mean="batch", keep="all")

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        total = responses.total(logp)
        return -(responses.weight * total).sum(), {
            "nll_sum": -total.sum(),
            "nll_count": responses.lengths().sum(),
            "probability_sum": total.exp().sum(),
            "probability_count": responses.weight.new_full((), len(responses.weight)),
        }
