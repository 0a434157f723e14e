"""Turns a step's gradient away from the last one, by our reading of GAC (gradient alignment control, arXiv 2603.01501).

From the source (its abstract; the rule itself we saw only in others' summaries): stale data makes consecutive policy
gradients point the same way, where those of fresh data are nearly orthogonal; the progress along that direction is regulated
by splitting the gradient into a part along the last gradient and one across it, above a threshold of their cosine.

Our reading, as neither the thresholds nor the size of the part that is left could be seen: with a cosine c above the limit,
the part along the last gradient is shortened until the cosine is the limit; c at or below it, and negative c, change nothing.
The last gradient is the one before its own projection. A summary says that the paper also skips steps above a second
threshold; that is not built: where aligned gradients are the rule, a learner would never take a step again.
"""

from __future__ import annotations

import math

import torch
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from learner.megatron.training.gradient_meter import GradientMeter
from learner.megatron.training.update_meter import optimizer_parts, own_shards


class GradientProjection(GradientMeter):
    """A meter that keeps the whole last gradient, 4 bytes a weight, and removes from a gradient what points along it.

    The last gradient is not in the checkpoint: after a resume the first step is not projected.

    Args:
        optimizer: whose gradients are measured and changed.
        limit: largest cosine that is left, 0 to below 1.
        device: of the sums.

    Attributes:
        limit: the argument; it may be changed between two steps.
    """

    def __init__(self, optimizer: MegatronOptimizer, limit: float, device: torch.device) -> None:
        super().__init__(optimizer, 1, device)
        self.limit = limit
        self._whole: list[Tensor] = []  # the last gradient, of this rank's weights in order

    def sums(self) -> Tensor:
        """Returns what GradientMeter.sums does, of every element and without a copy of them."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        counted = {id(weight) for part in optimizer_parts(self._optimizer) for weight in own_shards(part)}
        for index, weight in enumerate(self._weights()):
            if id(weight) in counted:
                gradient = _flat(weight).float()
                if self._whole:
                    sums[0] += torch.dot(gradient, self._whole[index])
                sums[1] += torch.dot(gradient, gradient)
        return sums

    def keep(self, cosine: float | None, norm: float) -> float:
        """Changes the gradient if ``cosine`` is above the limit, and keeps what it was before; call it before clipping.

        Returns:
            The norm of the gradient now; ``norm``, what it was, if it did not change.
        """
        along = 0.0  # what is removed, in lengths of the last gradient
        if cosine is not None and cosine > self.limit:
            whole = math.sqrt(self._square)
            across = whole * math.sqrt(1 - cosine**2)
            left = across * self.limit / math.sqrt(1 - self.limit**2)
            along = (cosine * whole - left) / math.sqrt(self._last_square)
            norm = math.hypot(across, left)
        gradients = [_flat(weight) for weight in self._weights()]
        last = self._whole or [torch.empty_like(gradient, dtype=torch.float32) for gradient in gradients]
        for gradient, before in zip(gradients, last, strict=True):
            unchanged = gradient.float().clone()
            if along:
                gradient.sub_(before, alpha=along)
            before.copy_(unchanged)
        self._whole, self._last_square = last, self._square
        return norm

    def _weights(self) -> list[Tensor]:
        """Weights with a gradient on this rank, those included that other ranks hold too: theirs is projected as well."""
        weights = [weight for part in optimizer_parts(self._optimizer) for weight in part.get_parameters()]
        return [weight for weight in weights if weight.grad is not None]


def _flat(weight: Tensor) -> Tensor:
    """The gradient of a weight, [n]; a view of it."""
    assert weight.grad is not None
    return weight.grad.detach().view(-1)
