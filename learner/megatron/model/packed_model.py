"""The policy: one rank's part of a Megatron GPTModel over packed rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from megatron.core import tensor_parallel
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from learner.megatron.model.architecture import Architecture
from learner.megatron.model.packed_row import PackedRow


@dataclass(frozen=True)
class Policy:
    """This rank's part of the model.

    Attributes:
        chunks: this rank's pieces of the model, in the order of the layers, each inside megatron's data-parallel wrapper; one
            but for the virtual pipeline.
        inverse_frequencies: [head_dim / 2] float32 in host memory, the rotary angles per position.
    """

    chunks: list[DistributedDataParallel]
    transformer_config: TransformerConfig
    architecture: Architecture
    inverse_frequencies: Tensor

    @property
    def vocab_size(self) -> int:
        return self.architecture.vocab

    @property
    def models(self) -> list[PackedModel]:
        return [cast(PackedModel, chunk.module) for chunk in self.chunks]

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer_config.params_dtype


class PackedModel(GPTModel):
    """GPTModel over one packed row, without its output layer's arithmetic.

    Its rotary positions are applied in the attention, its log-probabilities computed from ``head`` a chunk at a time
    (learner.megatron.model.attention, learner.megatron.model.logprobs), not by GPTModel.
    """

    @property
    def head(self) -> Tensor:
        """The output layer's weight on the last stage: [V / tp, hidden]."""
        tied = self.share_embeddings_and_output_weights
        return cast(Tensor, self.shared_embedding_or_output_weight() if tied else self.output_layer.weight)

    def forward(self, tokens: Tensor, positions: Tensor, row: PackedRow) -> Tensor:
        """Args:
            tokens: [1, n] int64, those of the row that this rank holds; read on the first stage.
            positions: [1, n] int64.
            row: how the tokens are packed.

        Returns:
            The last stage's hidden states at this rank's positions whose next token carries loss [l, hidden], which ``head``
            makes logits of; or the hidden states [n, 1, hidden] for the next stage ([n / tp, 1, hidden] under sequence
            parallelism).
        """
        hidden = self.embedding(input_ids=tokens, position_ids=positions) if self.pre_process else None
        hidden = self.decoder(hidden_states=hidden, attention_mask=None, packed_seq_params=row)
        if not self.post_process:
            return hidden
        if self.config.sequence_parallel:
            # Gathers the tokens; backward sums each rank's part of the gradient into the slices.
            hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden)
            return hidden[:, 0].index_select(0, row.own_loss_index)
        return tensor_parallel.copy_to_tensor_model_parallel_region(hidden[:, 0].index_select(0, row.own_loss_index))
