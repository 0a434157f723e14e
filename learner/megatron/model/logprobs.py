"""Log-probabilities of chosen tokens, and entropies, from hidden states and the output layer's weight.

The logits exist for a chunk of rows at a time only, forward and backward: with a vocabulary of 152k they would be by far the
largest tensors of a step. The vocabulary may be split over the tensor-parallel ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Logits in a chunk, by device; each costs a few fp32 temporaries. On a CPU 64 MiB; on a GPU enough rows for its matrix units.
_CHUNK = {"cpu": 1 << 24, "cuda": 1 << 27}


def vocab_parallel_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: Tensor,
    group: dist.ProcessGroup | None = None,
    vocabulary: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes log softmax(hidden weight^T / temperature) at ``targets``, and the entropies, with one collective.

    All arithmetic from the logits on is in fp32. Each rank reduces its slice of the vocabulary to four numbers per row
    (maximum, sum of exponentials, target logit, sum of exponential times logit), which are gathered and combined on every
    rank. The backward pass computes the logits again, chunk by chunk; they are kept only when all fit in one chunk.

    Args:
        hidden: [L, H], any float dtype; the same on every rank of ``group``.
        weight: [W, H], the dtype of ``hidden``; rank r holds ids [r * W, (r + 1) * W). Rows of ids from V on are padding:
            they get no probability, and their gradient is zero.
        targets: [L] int64, ids in [0, V).
        temperature: [L] float32, > 0.
        group: the tensor-parallel group; None or of size 1 when the vocabulary is not split.
        vocabulary: V, of which every rank has a part; None: no row is padding.

    Returns:
        Log-probabilities [L] float32 and entropies [L] float32 in nats, both differentiable in ``hidden`` and ``weight``. The
        gradient of ``hidden`` covers this rank's slice of the vocabulary only: the caller sums it over ``group``. The
        entropy's gradient costs nothing if no loss uses it.
    """
    start = _rank(group) * len(weight)
    live = len(weight) if vocabulary is None else min(len(weight), vocabulary - start)
    return _LogProbs.apply(hidden, weight, targets, temperature, _Part(start, live, group))  # type: ignore[return-value]


@dataclass(frozen=True)
class _Part:
    """A rank's slice of the vocabulary: its first id, the number of its ids, and the ranks that have the others."""

    start: int
    live: int
    group: dist.ProcessGroup | None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: Tensor,
        part: _Part,
    ) -> tuple[Tensor, Tensor]:
        local, is_local = _local_targets(part, targets)
        ctx.live = part.live
        whole, weight = weight, weight[: part.live]
        reduced = torch.empty(4, len(targets), dtype=torch.float32, device=hidden.device)
        chunks = _chunks(hidden, weight)
        logits = None
        for rows in chunks:
            logits = hidden[rows] @ weight.T
            reduced[:, rows] = _reduce(logits.float() / temperature[rows, None], local[rows], is_local[rows])
        top, total, chosen, moment = _combine(_gather(reduced, part.group))
        log_total = total.log()
        entropy = log_total - moment / total
        ctx.set_materialize_grads(False)
        kept = logits if len(chunks) == 1 else None
        ctx.save_for_backward(hidden, whole, kept, local, is_local, temperature, top, log_total, entropy)
        return chosen - top - log_total, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor | None, None, None, None]:
        """Gradients of ``hidden`` and ``weight``.

        With z = logits / temperature and p = softmax(z): d logp / dz = onehot - p, d entropy / dz = -p (log p + entropy).
        """
        hidden, weight, kept, local, is_local, temperature, top, log_total, entropy = ctx.saved_tensors
        of_logp, of_entropy = gradients
        of_hidden = torch.empty_like(hidden)
        trained = ctx.needs_input_grad[1]  # it is frozen where adapters are trained
        of_whole = torch.zeros_like(weight, dtype=torch.float32) if trained else None  # a sum over chunks
        weight = weight[: ctx.live]
        for rows in _chunks(hidden, weight):
            logits = hidden[rows] @ weight.T if kept is None else kept
            # Subtracted in two steps: top + log_total would lose digits.
            logp = (logits.float() / temperature[rows, None]).sub_(top[rows, None]).sub_(log_total[rows, None])
            slope = _slope(logp, of_logp, of_entropy, entropy, rows)
            if of_logp is not None:
                slope.scatter_add_(1, local[rows, None], (is_local * of_logp)[rows, None])
            slope = slope.div_(temperature[rows, None]).to(hidden.dtype)
            torch.mm(slope, weight, out=of_hidden[rows])
            if of_whole is not None:
                _add_product(of_whole[: ctx.live], slope.T, hidden[rows])
        return of_hidden, None if of_whole is None else of_whole.to(weight.dtype), None, None, None


def _slope(logp: Tensor, of_logp: Tensor | None, of_entropy: Tensor | None, entropy: Tensor, rows: slice) -> Tensor:
    """Returns -p * (g + h * (log p + entropy)), [rows, live], with g and h the gradients of the two outputs."""
    if of_entropy is None:
        assert of_logp is not None
        return logp.exp_().mul_(-of_logp[rows, None])
    factor = (logp + entropy[rows, None]).mul_(of_entropy[rows, None])
    if of_logp is not None:
        factor.add_(of_logp[rows, None])
    return logp.exp_().neg_().mul_(factor)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right to ``total``, which is fp32 whatever the dtype of the factors."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _local_targets(part: _Part, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Targets as columns of this rank's slice [L] int64, 0 if in another rank's; and whether in this one's, [L] bool."""
    local = targets - part.start
    is_local = (local >= 0) & (local < part.live)
    return local.where(is_local, 0), is_local


def _reduce(scaled: Tensor, local: Tensor, is_local: Tensor) -> Tensor:
    """Reduces a slice x to [4, rows]: maximum m, sum of exp(x - m), target logit or 0, sum of exp(x - m) * (x - m)."""
    chosen = scaled.gather(1, local[:, None])[:, 0].where(is_local, 0.0)
    top = scaled.amax(1)
    shifted = scaled.sub_(top[:, None])
    exponentials = shifted.exp()
    return torch.stack([top, exponentials.sum(1), chosen, exponentials.mul_(shifted).sum(1)])


def _combine(reduced: Tensor) -> Tensor:
    """Combines the slices' numbers [tp, 4, L], each relative to its own maximum, to [4, L] relative to the overall one."""
    if len(reduced) == 1:
        return reduced[0]
    tops, totals, chosen, moments = reduced.unbind(1)
    top = tops.amax(0)
    shift = tops - top
    scale = shift.exp()
    return torch.stack([top, (totals * scale).sum(0), chosen.sum(0), (scale * (moments + totals * shift)).sum(0)])


def _gather(reduced: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    size = _size(group)
    if size == 1:
        return reduced[None]
    gathered = reduced.new_empty(size, *reduced.shape)
    dist.all_gather(list(gathered.unbind(0)), reduced, group=group)
    return gathered


def _size(group: dist.ProcessGroup | None) -> int:
    return 1 if group is None else dist.get_world_size(group)


def _rank(group: dist.ProcessGroup | None) -> int:
    return dist.get_rank(group) if _size(group) > 1 else 0


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    step = max(1, _CHUNK[hidden.device.type] // max(1, len(weight)))
    return [slice(start, start + step) for start in range(0, len(hidden), step)]
