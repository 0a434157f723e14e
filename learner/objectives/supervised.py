"""Supervised fine-tuning, for warm starts."""

from __future__ import annotations

from torch import Tensor

from learner.objectives.base import Responses


def sft(logp: Tensor, responses: Responses) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of the responses: sum over tokens, times the response's weight.

    With ``Responses.weight`` = 1 / (all loss tokens of the step) this is the mean NLL per token. Advantages are not read.

    Args:
        logp: [L] float32, log-probability of each token.

    Returns:
        The loss, and ``nll_sum`` / ``nll_count`` (nats; tokens) and ``probability_sum`` / ``probability_count``: the
        probability of each whole response, which for a task with one right answer is the expected reward of sampling.
    """
    total = responses.total(logp)
    loss = -(responses.weight * total).sum()
    detached = total.detach()
    return loss, {
        "nll_sum": -detached.sum(),
        "nll_count": responses.lengths().sum(),
        "probability_sum": detached.exp().sum(),
        "probability_count": responses.weight.new_tensor(float(len(responses.weight))),
    }
