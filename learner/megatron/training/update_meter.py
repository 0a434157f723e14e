"""What an optimizer step did to the weights: how far they moved, and whether in the direction of the step before."""

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
    """theta_{t+1} - theta_t; the same on every rank."""

    norm: float  # L2, of the whole model
    cosine: float | None  # with the update before; None for the first, and where it is not measured


class UpdateMeter:
    """Measures updates on the fp32 weights that each rank's optimizer owns.

    Only every ``update_stride``-th element of each shard is looked at, and the sum of squares scaled up to the shards' size:
    on n elements in all the norm is off by about 1 / sqrt(2 n) of itself, the cosine by 1 / sqrt(n). The sample is copied
    before a step, and the last update's kept for the cosine, which starts anew after a resume: 12 / update_stride bytes a
    weight.

    The step's own all-reduce has come and gone when the weights move (clipping needs the norm), so this takes another, of two
    numbers.
    """

    def __init__(self, optimizer: MegatronOptimizer, config: DiagnosticsConfig, device: torch.device) -> None:
        self._optimizer = optimizer
        self._config = config
        self._device = device
        self._before: Tensor | None = None
        self._last: Tensor | None = None
        self._last_norm = 0.0

    def before(self) -> None:
        """Call right before the weights move."""
        self._before, _ = self._sample()

    def after(self) -> Update:
        """Call right after. Collective.

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
        """A copy of the sampled elements, [n] float32, and how many weights they stand for."""
        shards = [weight.detach().view(-1) for part in parts(self._optimizer) for weight in _own(part)]
        empty = torch.zeros(0, device=self._device)  # a rank may own nothing
        sampled = [shard[:: self._config.update_stride].float() for shard in shards]
        return torch.cat([empty, *sampled]), sum(map(len, shards))


def count(optimizer: MegatronOptimizer, device: torch.device) -> int:
    """The weights of the whole model. Collective."""
    own = sum(weight.numel() for part in parts(optimizer) for weight in _own(part))
    total = torch.tensor(own, dtype=torch.int64, device=device)
    dist.all_reduce(total)
    return int(total)


def parts(optimizer: MegatronOptimizer) -> list[Any]:
    """The optimizers in a chained one, or the one there is."""
    return getattr(optimizer, "chained_optimizers", [optimizer])


def _own(part: Any) -> list[Tensor]:
    """The shards this rank answers for: what several ranks hold is counted once, as megatron does for the gradient's norm."""
    group = getattr(part, "tp_group", None)
    return [
        weight
        for weight in part.get_parameters()
        if param_is_not_shared(weight) and param_is_not_tensor_parallel_duplicate(weight, group)
    ]
