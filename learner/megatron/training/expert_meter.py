"""Counts the tokens that routers send to each expert."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from learner.megatron.model.packed_model import PackedModel, Policy
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.parallel import Ranks


class ExpertMeter:
    """Counts the tokens of training passes that the router of each mixture layer sends to each expert; padding is no token.

    Each rank counts what its own routers decide for its own tokens: routers are on every rank of a stage, and the ranks of a
    stage share out the tokens (data, context and sequence parallelism). So the sum over all ranks counts every token once,
    whichever ranks hold the experts. It needs no collective of its own: its sums travel with the step's.

    A layer that the backward pass computes again is counted once, and passes without a gradient not at all.
    """

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        mixture = policy.architecture.mixture
        sparse = mixture.layers if mixture else ()
        self.layers = [number for number, has_experts in enumerate(sparse) if has_experts]
        self._experts = mixture.experts if mixture else 0
        self._counts = torch.zeros(len(self.layers), self._experts, dtype=torch.int64, device=ranks.device)
        # Under sequence parallelism a router sees one of so many equal slices of the rank's tokens.
        self._slices, self._slice = (ranks.tensor_size, ranks.tensor_rank) if ranks.sequence else (1, 0)
        self._row: PackedRow | None = None
        for model in policy.models if self.layers else ():
            self._watch(model)

    def __len__(self) -> int:
        return self._counts.numel()

    def start(self) -> None:
        """Begins to count anew."""
        self._counts.zero_()

    def sums(self) -> Tensor:
        """Returns this rank's counts, to be added up over all ranks: [layers * experts] float64, layer by layer."""
        return self._counts.flatten().double()

    def by_layer(self, sums: Sequence[float]) -> dict[int, list[int]]:
        """Turns the sums over all ranks into each mixture layer's tokens by expert; layers are counted from 0."""
        step = self._experts
        return {layer: [int(n) for n in sums[i * step : (i + 1) * step]] for i, layer in enumerate(self.layers)}

    def _watch(self, model: PackedModel) -> None:
        model.register_forward_pre_hook(self._enter)
        model.register_forward_hook(self._leave, always_call=True)
        for layer in model.decoder.layers:
            router = getattr(layer.mlp, "router", None)
            if router is not None:
                index = self.layers.index(cast(int, layer.layer_number) - 1)
                router.register_forward_hook(partial(self._count, index))

    def _enter(self, _: Any, inputs: tuple[Any, ...]) -> None:
        # Outside of a model's forward pass a router runs only where the backward pass computes a layer again.
        self._row = inputs[2] if torch.is_grad_enabled() else None

    def _leave(self, *_: Any) -> None:
        self._row = None

    def _count(self, index: int, _: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        if self._row is None:
            return
        chosen = output[1].detach()  # [tokens of the slice, experts], whether the token is sent to the expert
        real = self._row.real.chunk(self._slices)[self._slice]
        self._counts[index] += (chosen & real[:, None]).sum(0)
