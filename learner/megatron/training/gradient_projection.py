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
from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from learner.megatron.patches.optimizer_ranges import OwnRange
from learner.megatron.training.gradient_meter import GradientMeter
from learner.megatron.training.update_meter import optimizer_parts, own_shards

_STATE = "last_gradient"


class GradientProjection(GradientMeter):
    """A meter that keeps the whole last gradient, 4 bytes a weight, and removes from a gradient what points along it.

    The last gradient belongs to the checkpoint, as the optimizer's state does (``joined``).

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
        self._whole: dict[int, Tensor] = {}  # the last gradient, [n] fp32, by the id of each of this rank's weights

    def sums(self) -> Tensor:
        """Returns what GradientMeter.sums does, of every element and without a copy of them."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        counted = self._counted()
        for weight in self._weights():
            if id(weight) in counted:
                gradient = _flat(weight).float()
                if id(weight) in self._whole:
                    sums[0] += torch.dot(gradient, self._whole[id(weight)])
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
        for weight in self._weights():
            gradient, before = _flat(weight), self._last_of(weight)
            unchanged = gradient.float().clone()
            if along:
                gradient.sub_(before, alpha=along)
            before.copy_(unchanged)
        self._last_square = self._square
        return norm

    def joined(self, ranges: Iterable[OwnRange]) -> list[OwnRange]:
        """Adds the last gradient, 0 before the first step, to the optimizer's state of the same weights, for a checkpoint."""
        weights = {weight.data_ptr(): weight for weight in self._parameters()}
        return [
            replace(own, state=own.state | {_STATE: self._last_of(weights[own.state["weight"].data_ptr()])})
            for own in ranges
        ]

    @staticmethod
    def is_part(key: str) -> bool:
        """Whether a checkpoint's tensor of this name belongs to a last gradient."""
        return key.startswith(f"optimizer.{_STATE}.")

    def resume(self) -> None:
        """Goes on with a last gradient that was loaded into what ``joined`` returned. Collective."""
        square, counted = torch.zeros(1, dtype=torch.float64, device=self._device), self._counted()
        for weight in self._parameters():
            if id(weight) in counted and id(weight) in self._whole:
                last = self._whole[id(weight)]
                square += torch.dot(last, last)
        dist.all_reduce(square)
        self._last_square = square.item()

    def _last_of(self, weight: Tensor) -> Tensor:
        if id(weight) not in self._whole:
            self._whole[id(weight)] = torch.zeros_like(weight.detach().view(-1), dtype=torch.float32)
        return self._whole[id(weight)]

    def _counted(self) -> set[int]:
        """Ids of the weights that no other rank counts."""
        return {id(weight) for part in optimizer_parts(self._optimizer) for weight in own_shards(part)}

    def _parameters(self) -> list[Tensor]:
        return [weight for part in optimizer_parts(self._optimizer) for weight in part.get_parameters()]

    def _weights(self) -> list[Tensor]:
        """Weights with a gradient on this rank, those included that other ranks hold too: theirs is projected as well."""
        return [weight for weight in self._parameters() if weight.grad is not None]


def _flat(weight: Tensor) -> Tensor:
    """The gradient of a weight, [n]; a view of it."""
    assert weight.grad is not None
    return weight.grad.detach().view(-1)
