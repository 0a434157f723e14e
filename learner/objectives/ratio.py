"""Objectives on the probability ratio of tokens, pi / mu. They need log mu of the sampled tokens (``behaviour_logp``):
mu is the policy that generated the token, not the current one.

One update is made per batch, so pi is the only current policy and there is no separate "proximal" one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.batch.weighting import Weighting
from learner.objectives.base import Loss, Objective, Responses

_LIMIT = 20.0  # |log ratio| beyond it is cut, as DRPO's code does: exp(88) is infinite in fp32. No gradient beyond it.


def log_ratio(logp: Tensor, responses: Responses) -> Tensor:
    """log(pi / mu) of each token, [L], cut at +-20."""
    assert responses.behaviour_logp is not None
    return (logp - responses.behaviour_logp).clamp(-_LIMIT, _LIMIT)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic surrogate min(r A, clip(r, 1 - low, 1 + high) A), elementwise, and where the clip holds (bool)."""
    bounded = ratio.clamp(1 - low, 1 + high) * advantage
    free = ratio * advantage
    return torch.minimum(free, bounded), bounded.detach() < free.detach()


def share(name: str, flags: Tensor) -> dict[str, Tensor]:
    """``flags`` [n] bool as a metric that becomes a share."""
    return {f"{name}_sum": flags.float().sum(), f"{name}_count": torch.ones_like(flags, dtype=torch.float32).sum()}


class Grpo(Objective):
    """GRPO (arXiv 2402.03300; objectives.md's table [S]):

        maximise (1/G) sum_g (1/m_g) sum_i min(r_i A_g, clip(r_i, 1 - low, 1 + high) A_g),    A = (reward - mean) / std

    Normalised by 1/m and 1/G, and by the group's std. Needs mu. low = high = 0.2; DAPO's clip-higher is high = 0.28.
    """

    weighting = Weighting(advantage="std")
    needs_behaviour = True

    def __init__(self, low: float = 0.2, high: float = 0.2) -> None:
        self._low, self._high = low, high

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        ratio = log_ratio(logp, responses).exp()
        surrogate, clipped = clipped_surrogate(ratio, responses.advantage[responses.row], self._low, self._high)
        return -self.reduce(surrogate, responses), share("clipped", clipped)


class DrGrpo(Grpo):
    """Dr.GRPO (arXiv 2503.20783; objectives.md's table [S]): GRPO without the two biases, 1/m and 1/std.

        maximise (1/G) sum_g (1/length) sum_i min(r_i A_g, clip(r_i) A_g),    A = reward - mean

    Normalised by 1/G and a constant ``length`` (tokens; the generation budget, as its code does). Needs mu.
    """

    weighting = Weighting(mean="sum")

    def __init__(self, low: float = 0.2, high: float = 0.2, length: int = 1024) -> None:
        super().__init__(low, high)
        self._length = length

    def reduce(self, losses: Tensor, responses: Responses) -> Tensor:
        return super().reduce(losses, responses) / self._length


class Tis(Objective):
    """Truncated importance sampling (objectives.md's table [S]):

        L = -(1/G) sum_g (1/m_g) sum_i sg(min(r_i, cap)) A_g log p_i

    The truncated ratio is a constant weight, so tokens beyond the cap still learn. Needs mu. Its source applies it to
    whatever loss there is; the means over the response and the group are GRPO's, the advantage is centred only [D].
    """

    needs_behaviour = True

    def __init__(self, cap: float = 2.0) -> None:
        self._cap = cap

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        ratio = log_ratio(logp.detach(), responses).exp()
        weighted = ratio.clamp(max=self._cap) * responses.advantage[responses.row] * logp
        return -self.reduce(weighted, responses), share("clipped", ratio > self._cap)


class Cispo(Objective):
    """CISPO (arXiv 2506.13585; objectives.md's table [S]): the ratio is clipped, not the token's gradient.

        L = -(1 / sum_g m_g) sum_g sum_i sg(clip(r_i, 1 - low, 1 + high)) A_g log p_i,    A = (reward - mean) / std

    Normalised by the group's tokens. Needs mu. The lower side is open (low = 1) and the paper gives no value for high [S];
    4 bounds the ratio at 5 [D].
    """

    weighting = Weighting(advantage="std", mean="group")
    needs_behaviour = True

    def __init__(self, low: float = 1.0, high: float = 4.0) -> None:
        self._low, self._high = low, high

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        ratio = log_ratio(logp.detach(), responses).exp()
        bounded = ratio.clamp(1 - self._low, 1 + self._high)
        weighted = bounded * responses.advantage[responses.row] * logp
        return -self.reduce(weighted, responses), share("clipped", bounded != ratio)
