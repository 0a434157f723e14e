"""What pipeline stages send each other: micro-batches, each of its own length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_schedule_table
from megatron.core.transformer.transformer_config import TransformerConfig


class PipelineCommunicator(P2PCommunicator):
    """Knows the shape of whatever comes next from a neighbouring stage.

    With variable_seq_lengths megatron's stages tell each other each tensor's shape before they send it, in a message that
    both wait for. Here all stages have packed the same micro-batches, and each receives them in an order that the schedule
    says beforehand.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(cast(dist.ProcessGroup, parallel_state.get_pipeline_model_parallel_group()), config)
        self._width = config.hidden_size
        self._forward: Iterator[int] = iter(())
        self._backward: Iterator[int] = iter(())

    def expect(self, lengths: Sequence[int], chunks: int, turn: int) -> None:
        """Call before each batch.

        Args:
            lengths: of the hidden states that a rank has of each micro-batch.
            chunks: pieces of the model on each stage.
            turn: micro-batches that go through a piece before the next one has its turn.
        """
        table: list[tuple[int, int]] = get_schedule_table(len(lengths), chunks, turn)  # (micro-batch, piece)
        first, last = self.pp_group.rank() == 0, self.pp_group.rank() == self.pp_group.size() - 1
        # The way back has the same order with the pieces reversed. What begins on a stage comes from nowhere.
        self._forward = iter([lengths[number] for number, piece in table if not (first and piece == 0)])
        self._backward = iter([lengths[number] for number, piece in table if not (last and piece == 0)])

    def _communicate_shapes(
        self,
        tensor_send_next: torch.Tensor | None,
        tensor_send_prev: torch.Tensor | None,
        recv_prev: bool,
        recv_next: bool,
    ) -> tuple[list[int], list[int]]:
        """Overrides what asks the neighbours. An unbatched exchange of one tensor each way, or none."""
        return self._shape(self._forward, recv_prev), self._shape(self._backward, recv_next)

    def _shape(self, lengths: Iterator[int], wanted: bool) -> list[int]:
        return [next(lengths), 1, self._width] if wanted else []
