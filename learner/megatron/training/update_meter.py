"""Measures how far an optimizer step moved the weights, and whether in the direction of the previous step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared
from torch import Tensor

from learner.config.control import DiagnosticsConfig


@dataclass(frozen=True)
class Update:
    """The change of the weights in one step, theta_{t+1} - theta_t; equal on every rank.

    Attributes:
        norm: L2 norm over the whole model.
        cosine: cosine of the angle to the previous update; None for the first update, and if it is not measured.
    """

    norm: float
    cosine: float | None


class UpdateMeter:
    """Measures updates on the fp32 weights that each rank's optimizer owns.

    It samples every ``update_stride``-th element of each shard, and scales the sum of squares up to the shards' size: with n
    samples in all, the relative error of the norm is about 1 / sqrt(2 n), the error of the cosine 1 / sqrt(n). The sample is
    copied before a step, and the previous update's is kept for the cosine, which starts anew after a resume: 12 /
    update_stride bytes per weight.

    It needs an all-reduce of two numbers of its own: the step's all-reduce comes before the weights move, because clipping
    needs the gradient's norm.
    """

    def __init__(self, optimizer: MegatronOptimizer, config: DiagnosticsConfig, device: torch.device) -> None:
        self._optimizer = optimizer
        self._config = config
        self._device = device
        self._before: Tensor | None = None
        self._last: Tensor | None = None
        self._last_norm = 0.0

    def before(self) -> None:
        """Copies the sample of the current weights; call it right before they move."""
        self._before, _ = self._sample()

    def after(self) -> Update:
        """Compares the weights with those at ``before``; call it right after they moved. Collective.

        Raises:
            RuntimeError: ``before`` was not called.
        """
        if self._before is None:
            raise RuntimeError("UpdateMeter.after: call before() first")
        now, weights = self._sample()
        moved, self._before = now - self._before, None
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        sums[0] = moved.double().square().sum()
        if self._last is not None:
            sums[1] = moved.double() @ self._last.double()
        sums *= weights / max(1, moved.numel())
        dist.all_reduce(sums)
        square, product = sums.tolist()
        norm = math.sqrt(square)
        scale = norm * self._last_norm
        cosine = product / scale if self._last is not None and scale > 0 else None
        if self._config.update_cosine:
            self._last, self._last_norm = moved, norm
        return Update(norm, cosine)

    def _sample(self) -> tuple[Tensor, int]:
        """Copies the sampled elements, [n] float32; also returns the number of weights that they represent."""
        shards = [weight.detach().view(-1) for part in optimizer_parts(self._optimizer) for weight in own_shards(part)]
        empty = torch.zeros(0, device=self._device)  # a rank may own nothing
        sampled = [shard[:: self._config.update_stride].float() for shard in shards]
        return torch.cat([empty, *sampled]), sum(map(len, shards))


def optimizer_parts(optimizer: MegatronOptimizer) -> list[Any]:
    """The optimizers that a chained optimizer consists of; otherwise the optimizer itself."""
    return getattr(optimizer, "chained_optimizers", [optimizer])


def own_shards(part: Any) -> list[Tensor]:
    """Shards that this rank measures. What several ranks hold is counted once, as megatron does for the gradient's norm."""
    group = getattr(part, "tp_group", None)
    return [
        weight
        for weight in part.get_parameters()
        if param_is_not_shared(weight) and param_is_not_tensor_parallel_duplicate(weight, group)
    ]
