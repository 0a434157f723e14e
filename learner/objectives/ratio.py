"""Objectives on the probability ratio of tokens, r = pi / mu.

They need log mu of the sampled tokens (``behaviour_logp``): mu is the policy that generated the token, not the current one.
One update is made per batch, so pi is the only current policy and there is no separate "proximal" one. What in each formula
is the paper's and what is ours is in docs/objectives.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.batch.weighting import Weighting
from learner.objectives.base import Loss, Objective, Responses

LIMIT = (
    20.0  # |log ratio| is clamped to it, as DRPO's code does, since exp(89) is infinite in fp32; no gradient beyond it
)


def log_ratio(logp: Tensor, responses: Responses) -> Tensor:
    """Computes log(pi / mu) of each token, clamped to +-20: [L]."""
    assert responses.behaviour_logp is not None
    return (logp - responses.behaviour_logp).clamp(-LIMIT, LIMIT)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Computes PPO's surrogate min(r A, clip(r, 1 - low, 1 + high) A) elementwise, and where the clip is active (bool)."""
    bounded = ratio.clamp(1 - low, 1 + high) * advantage
    free = ratio * advantage
    return torch.minimum(free, bounded), bounded.detach() < free.detach()


def share(name: str, flags: Tensor) -> dict[str, Tensor]:
    """Makes of ``flags`` [n] bool the two sums of a metric whose ratio is the share of true flags."""
    return {f"{name}_sum": flags.float().sum(), f"{name}_count": torch.ones_like(flags, dtype=torch.float32).sum()}


class Grpo(Objective):
    """GRPO, which clips each token's ratio as PPO does (arXiv 2402.03300), with the dual clip.

        maximise (1/G) sum_g (1/m_g) sum_i u_i,    A = (reward - mean) / std
        u_i = min(r_i A_g, clip(r_i, 1 - low, 1 + high) A_g), and where A_g < 0 no less than dual A_g

    Normalised by 1/m, by 1/G, and by the group's std; ``mean`` chooses another mean over tokens. Needs mu. low = high = 0.2;
    DAPO (arXiv 2503.14476) is mean = "batch" and high = 0.28. The dual clip is not GRPO's: it is from arXiv 1912.09729, and
    on by default in verl (clip_ratio_c = 3). Without it a token with A < 0 that has become likely has the slope r |A|, which
    has no bound; with it such a token has none beyond r = dual.

    Args:
        low: ratios below 1 - low are clipped.
        high: ratios above 1 + high are clipped.
        dual: largest ratio that counts where A < 0, above 1; None: no bound.
    """

    weighting = Weighting(advantage="std")
    needs_behaviour = True

    def __init__(self, low: float = 0.2, high: float = 0.2, dual: float | None = 3.0) -> None:
        self._low, self._high, self._dual = low, high, dual

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        ratio, advantage = log_ratio(logp, responses).exp(), responses.advantage[responses.row]
        surrogate, clipped = clipped_surrogate(ratio, advantage, self._low, self._high)
        if self._dual is not None:
            beyond = (advantage < 0) & (ratio.detach() > self._dual)
            surrogate, clipped = torch.where(beyond, self._dual * advantage, surrogate), clipped | beyond
        return -self.reduce(surrogate, responses), share("clipped", clipped)


class DrGrpo(Grpo):
    """Dr. GRPO, which is GRPO without its two biases, 1/m and 1/std (arXiv 2503.20783).

        maximise (1/G) sum_g (1/length) sum_i u_i,    A = reward - mean,    u_i as GRPO has it, with the dual clip

    Normalised by 1/G and by the constant ``length`` (tokens; its authors' code uses the generation budget). Needs mu.
    """

    weighting = Weighting(mean="sum")

    def __init__(self, low: float = 0.2, high: float = 0.2, dual: float | None = 3.0, length: int = 1024) -> None:
        super().__init__(low, high, dual)
        self._length = length

    def reduce(self, losses: Tensor, responses: Responses) -> Tensor:
        return super().reduce(losses, responses) / self._length


class Tis(Objective):
    """REINFORCE with truncated importance sampling (Yao et al., On the Rollout-Training Mismatch in Modern RL Systems, 2025).

        L = -(1/G) sum_g (1/m_g) sum_i sg(min(r_i, cap)) A_g log p_i

    The truncated ratio is a constant weight, so tokens beyond the cap still learn. Needs mu. The source applies the weight to
    any loss; our choice here: means over the response and the group as in GRPO, and an advantage that is only centred.
    """

    needs_behaviour = True

    def __init__(self, cap: float = 2.0) -> None:
        self._cap = cap

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        ratio = log_ratio(logp.detach(), responses).exp()
        weighted = ratio.clamp(max=self._cap) * responses.advantage[responses.row] * logp
        return -self.reduce(weighted, responses), share("clipped", ratio > self._cap)


class Cispo(Objective):
    """CISPO, which clips the ratio as a weight and leaves no token's gradient out (MiniMax-M1, arXiv 2506.13585).

        L = -(1 / sum_g m_g) sum_g sum_i sg(clip(r_i, 1 - low, 1 + high)) A_g log p_i,    A = (reward - mean) / std

    Normalised by the group's tokens. Needs mu. There is no lower clip (low = 1). The paper is reported to give no value for
    high; our choice, 4, bounds the ratio at 5.
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
