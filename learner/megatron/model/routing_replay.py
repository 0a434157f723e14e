"""Replays the experts that an engine chose: a token that has a record of them is sent to those, whatever the router prefers.

The weights of its experts stay the current router's: its scores at the recorded ids, normalised as the model normalises
them, and the gradient flows through them. Tokens without a record are sent where the router wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from learner.megatron.model.packed_row import PackedRow
from learner.megatron.parallel import Ranks
from learner.megatron.patches import router_replay


@dataclass(frozen=True)
class ReplayCounts:
    """What was replayed in one step; padding is no token, and each mixture layer counts its own.

    Attributes:
        tokens: tokens of all mixture layers.
        replayed: those of them that had a record.
        choices: experts that the records name.
        differing: those of them that the router would not have chosen.
    """

    tokens: float
    replayed: float
    choices: float
    differing: float


class ReplayedRouter:
    """Chooses the experts of one layer's tokens, as megatron's top-k asks it to.

    Args:
        layer: index of the layer among the model's mixture layers.
        slices: how many ranks share the tokens of a row between layers, and which of them this is.
        sums: [4] float64, the fields of ReplayCounts, to which it adds what it replays.

    Attributes:
        row: the packed row that the layer computes; None outside of its forward pass.
        counts: whether what is computed is a training pass, and not a part that the backward pass computes again.
    """

    def __init__(self, layer: int, slices: tuple[int, int], sums: Tensor) -> None:
        self.row: PackedRow | None = None
        self.counts = False
        self._layer = layer
        self._slices, self._slice = slices
        self._sums = sums

    def get_replay_topk(
        self,
        scores: Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Chooses the recorded experts of tokens that have a record, and the router's own of the others.

        Experts of a token are in the order of their scores, as the router's own are: with a record of the same experts, in
        whatever order, not a bit is different. Arguments and result are megatron's: learner.megatron.patches.router_replay.
        """
        values, own = default_compute_topk(scores, topk, num_groups, group_topk)
        row = self.row
        if row is None or row.routed is None:
            return values, own
        recorded = row.routed[:, self._layer].chunk(self._slices)[self._slice].long()
        known = recorded[:, 0] >= 0
        chosen = torch.where(known[:, None], recorded, own)
        if self.counts:
            self._count(own, chosen, known, row.real.chunk(self._slices)[self._slice])
        order = scores.detach().gather(1, chosen).argsort(dim=1, descending=True, stable=True)
        chosen = chosen.gather(1, order)
        return scores.gather(1, chosen), chosen

    def _count(self, own: Tensor, chosen: Tensor, known: Tensor, real: Tensor) -> None:
        differing = (chosen[:, :, None] != own[:, None, :]).all(-1).sum()  # none of tokens without a record
        replayed = known.sum()  # padding has no record
        counts = [real.sum(), replayed, replayed * own.shape[1], differing]
        self._sums += torch.stack(counts).to(self._sums.dtype)


class RoutingReplay:
    """The replaying routers of one rank, and what they have replayed.

    Rows say what is replayed (PackedRow.routed), so that every pass over a batch replays the same: the training step, log mu
    under other weights, the measurement of drift, and layers that the backward pass computes again.

    Args:
        models: this rank's model chunks.
        layers: numbers of all mixture layers of the model, counted from 0: the order in which records have them.
        ranks: the layout, and this rank's indices in it.
    """

    def __init__(self, models: Sequence[torch.nn.Module], layers: Sequence[int], ranks: Ranks) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
        # Under sequence parallelism a router sees one of so many equal slices of the rank's tokens.
        slices = (ranks.tensor_size, ranks.tensor_rank) if ranks.sequence else (1, 0)
        for model in models:
            self._adopt(model, {number: index for index, number in enumerate(layers)}, slices)

    def __len__(self) -> int:
        return len(self._sums)

    def start(self) -> None:
        """Begins to count anew."""
        self._sums.zero_()

    def sums(self) -> Tensor:
        """Returns this rank's counts, to be added up over all ranks: the fields of ReplayCounts, float64."""
        return self._sums.clone()

    def _adopt(self, model: Any, indices: dict[int, int], slices: tuple[int, int]) -> None:
        routers = []
        for layer in model.decoder.layers:
            router = getattr(layer.mlp, "router", None)
            if router is not None:
                replayed = ReplayedRouter(indices[layer.layer_number - 1], slices, self._sums)
                router_replay.attach(router, replayed)
                layer.register_forward_pre_hook(partial(_enter_layer, replayed), with_kwargs=True)
                layer.register_forward_hook(partial(_leave_layer, replayed), always_call=True)
                routers.append(replayed)
        model.register_forward_pre_hook(partial(_enter_model, routers))
        model.register_forward_hook(partial(_leave_model, routers), always_call=True)


def _enter_layer(router: ReplayedRouter, _: Any, __: tuple[Any, ...], named: dict[str, Any]) -> None:
    # The backward pass computes a layer again by calling it with the row that it had; other rows may have gone by since.
    router.row = named["packed_seq_params"]


def _leave_layer(router: ReplayedRouter, *_: Any) -> None:
    router.row = None


def _enter_model(routers: list[ReplayedRouter], *_: Any) -> None:
    for router in routers:
        router.counts = torch.is_grad_enabled()


def _leave_model(routers: list[ReplayedRouter], *_: Any) -> None:
    for router in routers:
        router.counts = False
