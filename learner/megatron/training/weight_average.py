"""An exponential average of the weights over the steps, which is published in place of the weights themselves.

A policy that takes large steps is noisy; its average over the last steps is not, and what fleets sample from it is better
data (docs/objectives.md). Like the optimizer's state it is fp32, and each rank keeps the part whose weights it updates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from learner.megatron.patches.optimizer_ranges import OwnRange, shared_parameters, weight_ranges
from learner.megatron.training.trainer import Trainer
from learner.megatron.training.update_meter import optimizer_parts

_GATHER_BYTES = 1 << 26  # weights that one collective brings together: those of a small model fit into one
_STATE = "average"


class WeightAverage:
    """theta_bar <- decay * theta_bar + (1 - decay) * theta after every step; at first theta_bar is theta.

    Args:
        trainer: trains the weights.
        decay: share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, trainer: Trainer, decay: float) -> None:
        self._trainer = trainer
        self._decay = decay
        self._parts = [(part, list(weight_ranges(part))) for part in optimizer_parts(trainer.optimizer)]
        self._averages = {own.parameter: own.state["weight"].clone() for _, ranges in self._parts for own in ranges}

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that this rank's part takes."""
        return sum(average.nbytes for average in self._averages.values())

    def update(self) -> None:
        """Takes the current weights in; call it once after every step, whether it changed them or not."""
        self._trainer.prepare_update()
        for average, weight in self._pairs():
            average.lerp_(weight, 1 - self._decay)

    def restart(self) -> None:
        """Sets the average to the current weights, as at the start of a run."""
        self._trainer.prepare_update()
        for average, weight in self._pairs():
            average.copy_(weight)

    def joined(self, own: OwnRange) -> OwnRange:
        """Adds this rank's part of the average to the optimizer's state of the same weights, for a checkpoint."""
        return replace(own, state=own.state | {_STATE: self._averages[own.parameter]})

    @staticmethod
    def is_part(key: str) -> bool:
        """Whether a checkpoint's tensor of this name belongs to an average."""
        return key.startswith(f"optimizer.{_STATE}.")

    def weights(self, dtype: torch.dtype) -> dict[Parameter, Tensor]:
        """Returns the average of each of this rank's parameters, whole. Collective among data- and context-parallel ranks.

        Args:
            dtype: data type in which the parts of several ranks are brought together; without such ranks nothing is copied,
                and it is fp32.
        """
        found: dict[Parameter, Tensor] = {}
        for part, ranges in self._parts:
            if part.data_parallel_group.size() == 1:
                found |= {own.parameter: self._averages[own.parameter].view(own.parameter.shape) for own in ranges}
            else:
                for parameters in _bunches(shared_parameters(part), dtype):
                    found |= self._gathered(parameters, part.data_parallel_group, dtype, ranges)
        return found

    def _gathered(
        self, parameters: list[Parameter], group: dist.ProcessGroup, dtype: torch.dtype, ranges: list[OwnRange]
    ) -> dict[Parameter, Tensor]:
        """Brings parameters together of which every rank has a part: it adds up what is 0 everywhere but at its owner."""
        flat = torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=dtype, device=parameters[0].device)
        pieces = dict(zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True))
        for own in ranges:
            if own.parameter in pieces:
                pieces[own.parameter][own.start : own.end] = self._averages[own.parameter]
        dist.all_reduce(flat, group=group)
        return {parameter: piece.view(parameter.shape) for parameter, piece in pieces.items()}

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's parts of the average, each with the current weights that belong to it."""
        for _, ranges in self._parts:
            for own in ranges:
                yield self._averages[own.parameter], own.state["weight"]


def _bunches(parameters: list[Parameter], dtype: torch.dtype) -> Iterator[list[Parameter]]:
    """Groups parameters into bunches of about as many bytes as one collective brings together."""
    bunch: list[Parameter] = []
    size = 0
    for parameter in parameters:
        bunch.append(parameter)
        size += parameter.numel() * dtype.itemsize
        if size >= _GATHER_BYTES:
            yield bunch
            bunch, size = [], 0
    if bunch:
        yield bunch
