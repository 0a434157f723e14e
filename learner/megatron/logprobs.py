"""Log-probabilities of chosen tokens from logits whose vocabulary is split over the tensor-parallel ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_CHUNK = 1 << 24  # logits handled at a time: bounds the fp32 temporaries to a few times 64 MiB


def vocab_parallel_logprobs(
    logits: Tensor, targets: Tensor, temperature: Tensor, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """log softmax(logits / temperature) at ``targets``, computed in fp32 with one collective.

    Each rank reduces its slice of the vocabulary to four numbers a row (maximum, sum of exponentials, target logit, sum of
    exponential times logit); those are gathered and combined on every rank. Probabilities are not kept: the backward pass
    recomputes them from the logits, a chunk of rows at a time, so only the logits themselves are held in memory.

    Args:
        logits: [L, V / tp], any float dtype; rank r holds ids [r * V / tp, (r + 1) * V / tp).
        targets: [L] int64, ids in [0, V).
        temperature: [L] float32, > 0.
        group: the tensor-parallel group; None or of size 1 when the vocabulary is whole.

    Returns:
        log-probabilities [L] float32, differentiable in ``logits``; entropies [L] float32 in nats, detached.
    """
    return _LogProbs.apply(logits, targets, temperature, group)  # type: ignore[return-value]


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, temperature: Tensor, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor]:
        local, mine = _local_targets(logits, targets, group)
        parts = torch.empty(4, len(targets), dtype=torch.float32, device=logits.device)
        for rows in _chunks(logits):
            parts[:, rows] = _reduce(logits[rows].float() / temperature[rows, None], local[rows], mine[rows])
        top, total, chosen, moment = _combine(_gather(parts, group))
        log_total = total.log()
        ctx.save_for_backward(logits, local, mine, temperature, top, log_total)
        entropy = log_total - moment / total
        ctx.mark_non_differentiable(entropy)
        return chosen - top - log_total, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """d logp / d logits = (onehot(target) - softmax) / temperature."""
        logits, local, mine, temperature, top, log_total = ctx.saved_tensors
        factor = (gradients[0] / temperature)[:, None]
        out = torch.empty_like(logits)
        for rows in _chunks(logits):
            slope = (logits[rows].float() / temperature[rows, None]).sub_(top[rows, None])
            slope.sub_(log_total[rows, None]).exp_().neg_()  # in two steps: top + log_total would lose digits
            slope.scatter_add_(1, local[rows, None], mine[rows, None].float())
            out[rows] = slope.mul_(factor[rows]).to(out.dtype)
        return out, None, None, None


def _local_targets(logits: Tensor, targets: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Targets as columns of this rank's slice (0 where they lie elsewhere), and whether they lie here: [L], [L] bool."""
    width = logits.shape[1]
    local = targets - (dist.get_rank(group) * width if _size(group) > 1 else 0)
    mine = (local >= 0) & (local < width)
    return local.where(mine, 0), mine


def _reduce(scaled: Tensor, local: Tensor, mine: Tensor) -> Tensor:
    """[4, rows]: maximum m, sum of exp(x - m), target logit (0 when elsewhere), sum of exp(x - m) * (x - m)."""
    chosen = scaled.gather(1, local[:, None])[:, 0].where(mine, 0.0)
    top = scaled.amax(1)
    shifted = scaled.sub_(top[:, None])
    exponentials = shifted.exp()
    return torch.stack([top, exponentials.sum(1), chosen, exponentials.mul_(shifted).sum(1)])


def _combine(parts: Tensor) -> Tensor:
    """[tp, 4, L] relative to each rank's own maximum -> [4, L] relative to the overall maximum."""
    if len(parts) == 1:
        return parts[0]
    tops, totals, chosen, moments = parts.unbind(1)
    top = tops.amax(0)
    shift = tops - top
    scale = shift.exp()
    return torch.stack([top, (totals * scale).sum(0), chosen.sum(0), (scale * (moments + totals * shift)).sum(0)])


def _gather(parts: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    size = _size(group)
    if size == 1:
        return parts[None]
    everyone = parts.new_empty(size, *parts.shape)
    dist.all_gather(list(everyone.unbind(0)), parts, group=group)
    return everyone


def _size(group: dist.ProcessGroup | None) -> int:
    return 1 if group is None else dist.get_world_size(group)


def _chunks(logits: Tensor) -> list[slice]:
    rows, width = logits.shape
    step = max(1, _CHUNK // max(1, width))
    return [slice(start, start + step) for start in range(0, rows, step)]
