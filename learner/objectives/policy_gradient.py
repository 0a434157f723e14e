"""The current-policy-only family: L = (1/G) sum_g A_g * C_g * S_g, then the mean over prompts.

S_g is the mean token negative log-probability of response g under the *current* policy (nats/token), A_g its mean-centred
advantage; the members differ in C_g. None of them needs the probabilities of the policy that generated the response.
Source: ASymPO, arXiv 2606.03070. Normalised by 1/G within a group and 1/prompts over groups, both inside
``Responses.weight``; groups without contrast (A = 0 everywhere) count in that denominator and contribute nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learner.objectives.base import Responses

Loss = tuple[Tensor, dict[str, Tensor]]


def reinforce(logp: Tensor, responses: Responses) -> Loss:
    """C_g = 1: REINFORCE on centred rewards, which the paper calls naive.

    Args:
        logp: [L] float32, log-probability of each sampled token.
    """
    scale = _scale(logp, responses)
    return (responses.weight * responses.advantage * scale).sum(), _metrics(scale, responses)


def spo(logp: Tensor, responses: Responses, alpha: float) -> Loss:
    """C_g = 1 where A_g >= 0, ``alpha`` where A_g < 0 (Scaled Policy Optimization; the paper uses alpha = 0.2)."""
    scale = _scale(logp, responses)
    factor = torch.where(responses.advantage >= 0, 1.0, alpha)
    return (responses.weight * responses.advantage * factor * scale).sum(), _metrics(scale, responses)


def asympo(
    logp: Tensor, responses: Responses, floor: float = 1e-3, p_low: float | None = None, p_high: float | None = None
) -> Loss:
    """C_g = 1 / sg(max(S_g, floor)): both signs of the advantage get the same forward mass; the loss itself is 0 per group.

    The gradient of a response is (A_g / S_g) * grad S_g. The floor (nats/token) bounds 1 / S_g for near-certain responses,
    where S_g is rounding noise.

    With ``p_low`` / ``p_high`` (the paper's Appendix C): log p is clipped to at most log p_high where A_g >= 0 and to at
    least log p_low where A_g < 0, before averaging. Clipped tokens stay in S_g and give no gradient.
    """
    clipped = _clip(logp, responses, p_low, p_high)
    scale = _scale(clipped, responses)
    balanced = scale / scale.detach().clamp(min=floor)
    metrics = _metrics(_scale(logp.detach(), responses), responses)
    metrics["clipped_sum"] = (clipped.detach() != logp.detach()).float().sum()
    return (responses.weight * responses.advantage * balanced).sum(), metrics


def _clip(logp: Tensor, responses: Responses, p_low: float | None, p_high: float | None) -> Tensor:
    positive = responses.advantage[responses.row] >= 0
    if p_high is not None:
        logp = torch.where(positive, logp.clamp(max=math.log(p_high)), logp)
    if p_low is not None:
        logp = torch.where(positive, logp, logp.clamp(min=math.log(p_low)))
    return logp


def _scale(logp: Tensor, responses: Responses) -> Tensor:
    """S_g: [R] float32. A response without loss tokens has scale 0."""
    return responses.total(-logp) / responses.lengths().clamp(min=1)


def _metrics(scale: Tensor, responses: Responses) -> dict[str, Tensor]:
    """What a collapse shows in first: the scales of positives and negatives, unclipped."""
    scale = scale.detach()
    positive = responses.advantage > 0
    negative = responses.advantage < 0
    return {
        "nll_positive_sum": scale[positive].sum(),
        "nll_positive_count": positive.float().sum(),
        "nll_negative_sum": scale[negative].sum(),
        "nll_negative_count": negative.float().sum(),
    }
