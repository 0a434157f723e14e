"""Pipeline stages that know the shape of the next tensor, instead of asking their neighbour for it.

What it changes: overrides the private method P2PCommunicator._communicate_shapes, which Megatron's schedules call for each
tensor under ``variable_seq_lengths``.
Why: the original sends each tensor's shape in a message of its own, for which both stages wait. All stages pack the same
micro-batches, and a stage receives them in an order that the schedule fixes beforehand, so the shapes are known.
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: the same results, with an extra blocking message for each tensor between stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_schedule_table
from megatron.core.transformer.transformer_config import TransformerConfig

from learner.megatron.patches.guard import require_release, require_signature

require_release("megatron-core")
require_signature(
    P2PCommunicator._communicate_shapes, "(self, tensor_send_next, tensor_send_prev, recv_prev, recv_next)"
)
require_signature(get_schedule_table, "(num_microbatches, num_model_chunks, microbatch_group_size_per_vp_stage)")


class PipelineCommunicator(P2PCommunicator):
    """Exchanges hidden states and their gradients between pipeline stages, each micro-batch of its own length."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(cast(dist.ProcessGroup, parallel_state.get_pipeline_model_parallel_group()), config)
        self._width = config.hidden_size
        self._forward: Iterator[int] = iter(())
        self._backward: Iterator[int] = iter(())

    def expect(self, lengths: Sequence[int], chunks: int, microbatch_group_size: int) -> None:
        """Announces the next batch; call it before each one.

        Args:
            lengths: hidden states [tokens] that a rank has of each micro-batch.
            chunks: model chunks on each stage.
            microbatch_group_size: micro-batches that go through a model chunk before the next chunk's turn.
        """
        table: list[tuple[int, int]] = get_schedule_table(len(lengths), chunks, microbatch_group_size)
        first, last = self.pp_group.rank() == 0, self.pp_group.rank() == self.pp_group.size() - 1
        # Rows of the table are (micro-batch, model chunk). The backward pass has the same order with the chunks reversed.
        # The first chunk of the first stage receives no hidden states, the last chunk of the last stage no gradients.
        self._forward = iter([lengths[number] for number, chunk in table if not (first and chunk == 0)])
        self._backward = iter([lengths[number] for number, chunk in table if not (last and chunk == 0)])

    def _communicate_shapes(
        self,
        tensor_send_next: torch.Tensor | None,
        tensor_send_prev: torch.Tensor | None,
        recv_prev: bool,
        recv_next: bool,
    ) -> tuple[list[int], list[int]]:
        """Shapes of the tensors that will arrive from the previous and from the next stage; [] where none is received."""
        return self._shape(self._forward, recv_prev), self._shape(self._backward, recv_next)

    def _shape(self, lengths: Iterator[int], wanted: bool) -> list[int]:
        return [next(lengths), 1, self._width] if wanted else []
