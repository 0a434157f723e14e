"""The memory layout of a packed micro-batch, as attention, rotary positions and the output layer need it.

Everything that depends on how a row is packed, and on which of its tokens this rank holds, is computed once per micro-batch
and shared by all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from learner.batch.types import MicroBatch
from learner.megatron.model.context_parallel import SINGLE_RANK, ContextGroup, LossOrder, copy_to, token_owners
from learner.megatron.model.kernels import PLAIN, Kernels
from learner.megatron.model.rotary import Rotary
from learner.megatron.model.slot_plan import AttentionBatch, PaddedSlots, SlotPlan


@dataclass
class PackedRow(PackedSeqParams):
    """A row of T tokens, of which this rank holds n; megatron passes it on to every layer.

    The first ``live`` tokens of the rank attend. The others are padding at the row's end, whose hidden states are not used:
    their attention output is zero. Where one call attends within all sequences (``kernels.varlen``), padding is a sequence
    like any other, and ``queries``, ``keys`` and ``attention_batches`` are not made.

    Under context parallelism every rank gathers the keys and values of a layer, in the order of the ranks; queries stay where
    they are. A rank then stores 2 T groups d elements of keys and values for each layer whose attention is not recomputed,
    and at most 640 n elements of masks, which all layers share. Long sequences need no mask where CUDA has a kernel for them;
    elsewhere torch makes one for each of their calls.

    Attributes:
        own: [n] int64, indices in the row of this rank's tokens.
        real: [n] bool, false at padding, at the end of a sequence too.
        routed: [n, layers, k] int16, the experts to replay in each mixture layer of the model (whatever this rank has of
            them), -1 for tokens without a record. None: there are none.
        cos: [n, 1, r] model dtype, cosine of each token's rotary angles, of the r channels of a head that are turned.
        sin: [n, 1, r] model dtype, the sine, first half negated: see learner.megatron.model.attention.
        queries: slots of this rank's tokens.
        keys: slots of all tokens, in the order of the ranks.
        attention_batches: sequences that attend together, in the order of their slots.
        live: number of this rank's tokens that attend.
        loss_order: which context rank holds the position that predicts each loss token.
        own_loss_index: [l] int64, indices among the rank's n tokens of the positions that predict them.
        context: the ranks that share the row.
        kernels: the kernels that layers use.
        cu_seqlens: [N + 1] int32, where each sequence starts, then T. None where sequences attend in padded calls.
        longest: tokens of the longest sequence, where ``cu_seqlens`` is given.
    """

    # megatron's class gives all its fields defaults, so these must have one too; ``of`` sets them all.
    own: Tensor = None  # type: ignore[assignment]
    real: Tensor = None  # type: ignore[assignment]
    routed: Tensor | None = None
    cos: Tensor = None  # type: ignore[assignment]
    sin: Tensor = None  # type: ignore[assignment]
    queries: PaddedSlots = None  # type: ignore[assignment]
    keys: PaddedSlots = None  # type: ignore[assignment]
    attention_batches: tuple[AttentionBatch, ...] = ()
    live: int = 0
    loss_order: LossOrder = None  # type: ignore[assignment]
    own_loss_index: Tensor = None  # type: ignore[assignment]
    context: ContextGroup = SINGLE_RANK
    kernels: Kernels = PLAIN
    cu_seqlens: Tensor | None = None
    longest: int = 0

    @classmethod
    def of(
        cls,
        micro_batch: MicroBatch,
        rotary: Rotary,
        dtype: torch.dtype,
        device: torch.device,
        context: ContextGroup = SINGLE_RANK,
        kernels: Kernels = PLAIN,
    ) -> PackedRow:
        """Computes the layout of a micro-batch that lies in host memory, without waiting for ``device``.

        Args:
            micro_batch: one packed row.
            rotary: the angles of the positions.
            dtype: data type of the hidden states.
            device: where the layout is used.
            context: the ranks that share the row.
            kernels: the kernels that layers use.

        Raises:
            ValueError: a sequence cannot be split over the ranks; see learner.megatron.model.context_parallel.token_owners.
        """
        owners = token_owners(micro_batch, context.size)
        own = (owners == context.rank).nonzero().flatten()
        to_device = partial(copy_to, device=device)
        angles = torch.outer(to_device(micro_batch.positions[0, own]).float(), to_device(rotary.inverse_frequencies))
        cos, sin = angles.cos() * rotary.factor, angles.sin() * rotary.factor
        order = LossOrder.of(owners[micro_batch.loss_index], context)
        row = cls(
            qkv_format="thd",
            own=to_device(own),
            real=to_device(micro_batch.real[own]),
            routed=None if micro_batch.routed is None else to_device(micro_batch.routed[own]),
            cos=torch.cat([cos, cos], -1)[:, None].to(dtype),
            sin=torch.cat([-sin, sin], -1)[:, None].to(dtype),
            loss_order=order.to(device),
            own_loss_index=to_device(torch.searchsorted(own, micro_batch.loss_index[order.own])),
            context=context,
            kernels=kernels,
        )
        if kernels.varlen:
            row.cu_seqlens = to_device(micro_batch.cu_seqlens.int())
            row.longest = int(micro_batch.cu_seqlens.diff().max())  # in host memory: a GPU would have to be waited for
        else:
            row._plan_slots(SlotPlan(_attending(micro_batch), context), own, owners, dtype, device)
        return row

    def _plan_slots(
        self, plan: SlotPlan, own: Tensor, owners: Tensor, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.queries = plan.queries(own).to(device)
        self.keys = self.queries if self.context.size == 1 else plan.keys(owners).to(device)
        self.attention_batches = plan.attention_batches(dtype, device)
        self.live = plan.live // self.context.size


def _attending(micro_batch: MicroBatch) -> Tensor:
    """Lengths of the sequences that attend, [N] int64: all but the padding at the row's end."""
    bounds, loss_index = micro_batch.cu_seqlens.long(), micro_batch.loss_index
    padded = len(bounds) > 2 and not (len(loss_index) and int(loss_index[-1]) >= int(bounds[-2]))
    return (bounds[:-1] if padded else bounds).diff()
