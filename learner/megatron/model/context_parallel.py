"""Context parallelism: which rank holds which tokens of a micro-batch, and the collectives that this needs.

Every sequence is split into 2n equal blocks; of n ranks, rank r holds blocks r and 2n - 1 - r: an early and a late one, so
that causal attention is the same amount of work on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch.types import MicroBatch
from learner.megatron.parallel import Ranks


@dataclass(frozen=True)
class ContextGroup:
    """The ranks that share the tokens of a micro-batch, as one of them sees them.

    Attributes:
        rank: index of this rank in the group.
        size: number of ranks in the group.
        group: the process group; None without context parallelism.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, ranks: Ranks) -> ContextGroup:
        """The context-parallel group that ``ranks`` describes."""
        if ranks.context_size == 1:
            return SINGLE_RANK
        return cls(ranks.context_rank, ranks.context_size, ranks.context_group)


def copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor in host memory to ``device`` without waiting for what the device has still to do.

    CUDA reads page-locked memory whenever it comes to it; a large copy from other memory would wait for its turn.
    """
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


SINGLE_RANK = ContextGroup()  # no context parallelism: one rank holds every token


def token_owners(micro_batch: MicroBatch, ranks: int) -> Tensor:
    """Index of the context rank that holds each token of a row, [T] int64.

    Each rank holds T / ranks tokens, in the order of the row.

    Raises:
        ValueError: the length of a sequence is no multiple of twice ``ranks``.
    """
    sizes = micro_batch.cu_seqlens.diff()
    if ranks == 1:
        return torch.zeros(int(sizes.sum()), dtype=torch.int64)
    if (sizes % (2 * ranks)).any():
        raise ValueError(
            f"sequences of {sizes.tolist()} tokens: parallel.context = {ranks} splits each into {2 * ranks} equal blocks: "
            f"pack with context = {ranks}"
        )
    block_size = (sizes // (2 * ranks)).repeat_interleave(sizes)
    block = micro_batch.positions[0] // block_size
    return torch.minimum(block, 2 * ranks - 1 - block)


def gather_tokens(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Gathers every rank's tokens, [n, ...] -> [ranks * n, ...], in the order of the ranks; n is equal on all of them.

    Each rank goes on to compute something different with the gathered tokens. The backward pass therefore sums the ranks'
    gradients of a token on the rank that holds it.
    """
    return _GatherTokens.apply(x, group)  # type: ignore[return-value]


class _GatherTokens(torch.autograd.Function):
    """All-gather of tokens, whose backward pass is a reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        gathered = x.new_empty(dist.get_world_size(group) * len(x), *x.shape[1:])
        _all_gather(gathered, x.contiguous(), group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        own = gradient.new_empty(len(gradient) // dist.get_world_size(ctx.group), *gradient.shape[1:])
        _reduce_scatter(own, gradient, ctx.group)
        return own, None


@dataclass(frozen=True)
class LossOrder:
    """Where the loss tokens of a micro-batch are, made in host memory: their number on a rank cannot be asked of a GPU.

    Attributes:
        owner: [L] int64, index of the context rank that holds the position that predicts each loss token.
        index: [L] int64, index of each loss token among those of the rank that holds it.
        own: [l] int64, indices among the loss tokens of those that this rank predicts, ascending.
        most: the largest number of loss tokens on a rank.
    """

    owner: Tensor
    index: Tensor
    own: Tensor
    most: int

    @classmethod
    def of(cls, owner: Tensor, context: ContextGroup) -> LossOrder:
        """The order of loss tokens whose owners are ``owner``."""
        counts = owner.bincount(minlength=context.size)
        index = owner.argsort(stable=True).argsort() - (counts.cumsum(0) - counts)[owner]
        return cls(owner, index, (owner == context.rank).nonzero().flatten(), int(counts.max()))

    def to(self, device: torch.device) -> LossOrder:
        """A copy on ``device``, made without waiting for it."""
        return replace(
            self, owner=copy_to(self.owner, device), index=copy_to(self.index, device), own=copy_to(self.own, device)
        )


def gather_loss_tokens(logp: Tensor, entropy: Tensor, order: LossOrder, context: ContextGroup) -> tuple[Tensor, Tensor]:
    """Gathers log-probabilities and entropies of all loss tokens, [L] each, in the order of the micro-batch.

    From here on every rank computes the same loss. The backward pass therefore hands each rank the gradient of its own
    tokens, and sums nothing.

    Args:
        logp: [l] float32, of the loss tokens that this rank holds, in order.
        entropy: [l] float32, of the same tokens.
        order: which rank holds which loss tokens.
    """
    if context.group is None:
        return logp, entropy
    return _GatherLossTokens.apply(logp, entropy, order, context)  # type: ignore[return-value]


class _GatherLossTokens(torch.autograd.Function):
    """All-gather of loss tokens, whose backward pass selects this rank's own."""

    @staticmethod
    def forward(
        ctx: Any, logp: Tensor, entropy: Tensor, order: LossOrder, context: ContextGroup
    ) -> tuple[Tensor, Tensor]:
        own = logp.new_zeros(2, order.most)  # padded to the largest count of all ranks
        own[:, : len(logp)] = torch.stack([logp, entropy])
        gathered = own.new_empty(context.size, *own.shape)
        _all_gather(gathered.view(-1), own.view(-1), context.group)
        ctx.own_index = order.own
        ctx.set_materialize_grads(False)
        in_order = gathered[order.owner, :, order.index]
        return in_order[:, 0].contiguous(), in_order[:, 1].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        logp_gradient, entropy_gradient = (None if g is None else g.index_select(0, ctx.own_index) for g in gradients)
        return logp_gradient, entropy_gradient, None, None


def _all_gather(gathered: Tensor, own: Tensor, group: dist.ProcessGroup | None) -> None:
    """Gathers every rank's ``own`` into ``gathered``, in the order of the ranks."""
    # torch 2.11 has only the former name, of which 2.13 warns that it is deprecated.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(gathered, own, group=group)


def _reduce_scatter(own: Tensor, everything: Tensor, group: dist.ProcessGroup | None) -> None:
    """Sums the ranks' ``everything``, of which this rank gets its part into ``own``."""
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # as above
    scatter(own, everything, group=group)
