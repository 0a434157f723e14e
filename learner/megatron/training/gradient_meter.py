"""Measures whether a step's gradient points where the gradient of the step before pointed."""

from __future__ import annotations

import math

import torch
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from learner.megatron.patches.norm_gradients import norm_gradients
from learner.megatron.training.update_meter import optimizer_parts


class GradientMeter:
    """Measures the cosine of consecutive gradients, before clipping, on the gradients that each rank's optimizer owns.

    Under fresh data consecutive gradients are nearly orthogonal; a cosine that stays high is the sign of stale data that GAC
    goes by (arXiv 2603.01501). An update's cosine does not show it, because Adam's momentum alone makes that large.

    It samples every ``stride``-th element of each shard, after the gradients were reduced, so each data rank has a part; what
    several ranks hold is counted once, as in the gradient's norm. With n samples in all the error of the cosine is about
    1 / sqrt(n). The sample of the last step that was made is kept, and starts anew after a resume: 8 / stride bytes per
    weight. It needs no collective of its own: its two sums travel with the step's.
    """

    def __init__(self, optimizer: MegatronOptimizer, stride: int, device: torch.device) -> None:
        self._optimizer = optimizer
        self._stride = stride
        self._device = device
        self._now: Tensor | None = None
        self._square = 0.0
        self._last: Tensor | None = None
        self._last_square = 0.0

    def sums(self) -> Tensor:
        """Samples the current gradient; call it when the gradients are reduced and not yet clipped.

        Returns:
            [2] float64, to be added up over all ranks: the product with the last gradient (0 if there is none), and the
            square of this one.
        """
        gradients = [gradient.detach().view(-1) for gradient in self._gradients()]
        empty = torch.zeros(0, device=self._device)  # a rank may own nothing
        now = torch.cat([empty, *(gradient[:: self._stride].float() for gradient in gradients)])
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        if self._last is not None:
            sums[0] = now.double() @ self._last.double()
        sums[1] = now.double().square().sum()
        self._now = now
        return sums * (sum(map(len, gradients)) / max(1, now.numel()))

    def cosine(self, product: float, square: float) -> float | None:
        """Turns the sums over all ranks into the cosine to the last gradient.

        Returns:
            None without a last gradient, if one of them is 0, and if one is not finite.
        """
        self._square = square
        scale = math.sqrt(square) * math.sqrt(self._last_square) if math.isfinite(square) else 0.0
        return max(-1.0, min(1.0, product / scale)) if scale > 0 and math.isfinite(product) else None

    def keep(self, cosine: float | None, norm: float) -> float:
        """Makes the sampled gradient the last one; call it when the step is made, before clipping.

        Args:
            cosine: to the gradient that was the last one.
            norm: of the whole gradient.

        Returns:
            The norm of the gradient that the step is made with; here ``norm``.
        """
        self._last, self._last_square, self._now = self._now, self._square, None
        return norm

    def _gradients(self) -> list[Tensor]:
        return [gradient for part in optimizer_parts(self._optimizer) for gradient in norm_gradients(part)]
