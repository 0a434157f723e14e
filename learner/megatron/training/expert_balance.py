"""Balances the experts of sigmoid routers by their correction bias, without a loss and so without a gradient (2408.15664)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch.nn import Parameter

from learner.megatron.model.packed_model import Policy


class ExpertBalance:
    """Raises the correction bias of experts with fewer tokens than the mean of their layer, lowers that of those with more.

    Tokens are those of a whole step, summed over all ranks, so that every rank moves its copy of a bias alike.

    Args:
        policy: this rank's shard of the model.
    """

    def __init__(self, policy: Policy) -> None:
        layers = [layer for model in policy.models for layer in model.decoder.layers]
        routers = {cast(int, layer.layer_number) - 1: getattr(layer.mlp, "router", None) for layer in layers}
        self._biases: dict[int, Parameter] = {
            number: router.expert_bias
            for number, router in routers.items()
            if router is not None and router.expert_bias is not None
        }

    @torch.no_grad()
    def update(self, tokens: Mapping[int, Sequence[int]], rate: float) -> None:
        """Moves every bias by ``rate`` times the sign of the mean load less the expert's.

        Args:
            tokens: tokens that each expert was sent in the step, by the number of its layer, from 0.
            rate: how far a bias moves, in units of a router's score.
        """
        for number, bias in self._biases.items():
            load = torch.tensor(tokens[number])
            side = torch.sign(load.sum() - load * len(load))  # of whole numbers: exactly the mean has no side
            bias.add_(side.to(bias.device, bias.dtype), alpha=rate)
