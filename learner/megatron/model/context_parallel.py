"""Context parallelism: which rank holds which tokens of a micro-batch, and the collectives that its parts need.

Every sequence is cut into 2n equal parts; of n ranks, rank r holds parts r and 2n - 1 - r: an early and a late one, so that
causal attention is the same work for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch.types import MicroBatch
from learner.megatron.parallel import Ranks


@dataclass(frozen=True)
class Context:
    """This rank's place among those that share its micro-batches. ``group``: None when it is alone."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, ranks: Ranks) -> Context:
        if ranks.context_size == 1:
            return ALONE
        return cls(ranks.context_rank, ranks.context_size, ranks.context_group)


ALONE = Context()


def token_owners(micro_batch: MicroBatch, ranks: int) -> Tensor:
    """Which context rank holds each token of a row, [T] int64; each holds T / ranks, in the order of the row.

    Raises:
        ValueError: a sequence is not a multiple of twice ``ranks`` long.
    """
    sizes = micro_batch.cu_seqlens.diff()
    if ranks == 1:
        return torch.zeros(int(sizes.sum()), dtype=torch.int64)
    if (sizes % (2 * ranks)).any():
        raise ValueError(
            f"sequences of {sizes.tolist()} tokens: parallel.context = {ranks} cuts each into {2 * ranks} equal parts: pack "
            f"with context = {ranks}"
        )
    each = (sizes // (2 * ranks)).repeat_interleave(sizes)
    part = micro_batch.positions[0] // each
    return torch.minimum(part, 2 * ranks - 1 - part)


def gather_tokens(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Every rank's tokens, [n, ...] -> [ranks * n, ...], in the order of the ranks; the same n everywhere.

    Each rank computes something else of them, so that the backward pass sums the ranks' gradients of a token where it came
    from.
    """
    return _GatherTokens.apply(x, group)  # type: ignore[return-value]


class _GatherTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        everyone = x.new_empty(dist.get_world_size(group) * len(x), *x.shape[1:])
        dist.all_gather_single(everyone, x.contiguous(), group=group)
        return everyone

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        own = gradient.new_empty(len(gradient) // dist.get_world_size(ctx.group), *gradient.shape[1:])
        dist.reduce_scatter_single(own, gradient, group=ctx.group)
        return own, None


def gather_loss_tokens(logp: Tensor, entropy: Tensor, owner: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """What all ranks found for their loss tokens, [L] each, in the order of the micro-batch.

    Every rank computes the same of them from here on, so that each takes its own tokens' gradient and nothing is summed.

    Args:
        logp: [l] float32, of the loss tokens that this rank holds, in order.
        entropy: [l] float32.
        owner: [L] int64, which rank holds each loss token.
    """
    if context.group is None:
        return logp, entropy
    return _GatherLossTokens.apply(logp, entropy, owner, context)  # type: ignore[return-value]


class _GatherLossTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logp: Tensor, entropy: Tensor, owner: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        counts = owner.bincount(minlength=context.size)
        own = logp.new_zeros(2, int(counts.max()) if len(owner) else 0)  # as many from each as the one with most has
        own[:, : len(logp)] = torch.stack([logp, entropy])
        everyone = own.new_empty(context.size, *own.shape)
        dist.all_gather_single(everyone.view(-1), own.view(-1), group=context.group)
        ctx.mine = (owner == context.rank).nonzero().flatten()
        ctx.set_materialize_grads(False)
        place = owner.argsort(stable=True).argsort() - (counts.cumsum(0) - counts)[owner]  # among its rank's
        found = everyone[owner, :, place]
        return found[:, 0].contiguous(), found[:, 1].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        of_logp, of_entropy = (None if g is None else g.index_select(0, ctx.mine) for g in gradients)
        return of_logp, of_entropy, None, None
