"""The policy: one rank's shard of a Megatron GPTModel over packed rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from megatron.core import tensor_parallel
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from learner.config import LoraConfig
from learner.megatron.model.architecture import Architecture
from learner.megatron.model.kernels import PLAIN, Kernels
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.model.rotary import Rotary
from learner.megatron.model.routing_replay import RoutingReplay


@dataclass(frozen=True)
class Policy:
    """This rank's shard of the model.

    Attributes:
        chunks: this rank's model chunks, in the order of the layers, each inside megatron's DistributedDataParallel; more
            than one under a virtual pipeline only.
        rotary: the angles of its rotary positions.
        kernels: the kernels that its layers and its optimizer use.
        replay: replays the experts that engines chose; None: the model's routers choose.
        lora: the adapters, which are trained in place of the model's weights; None: the weights themselves are trained.
    """

    chunks: list[DistributedDataParallel]
    transformer_config: TransformerConfig
    architecture: Architecture
    rotary: Rotary
    kernels: Kernels = PLAIN
    replay: RoutingReplay | None = None
    lora: LoraConfig | None = None

    @property
    def vocab_size(self) -> int:
        """Token ids of the whole vocabulary."""
        return self.architecture.vocab

    @property
    def models(self) -> list[PackedModel]:
        """This rank's model chunks without megatron's wrapper, in the order of the layers."""
        return [cast(PackedModel, chunk.module) for chunk in self.chunks]

    def gather(self) -> None:
        """Waits until this rank has all new weights of its shard, of which data-parallel ranks update a part each.

        Collective after an update. Forward passes wait by themselves, layer by layer; whatever else reads weights calls this
        first.
        """
        for chunk in self.chunks:
            if chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the parameters."""
        return self.transformer_config.params_dtype


class PackedModel(GPTModel):
    """GPTModel over one packed row, which returns hidden states instead of logits.

    Rotary positions are applied in the attention (learner.megatron.model.attention), and log-probabilities are computed from
    ``head`` for a few rows at a time (learner.megatron.model.logprobs), neither by GPTModel.
    """

    @property
    def head(self) -> Tensor:
        """Weight of the output layer, on the last stage: [V / tp, hidden]."""
        tied = self.share_embeddings_and_output_weights
        return cast(Tensor, self.shared_embedding_or_output_weight() if tied else self.output_layer.weight)

    def forward(self, tokens: Tensor, positions: Tensor, row: PackedRow) -> Tensor:
        """Runs this model chunk over one packed row.

        Args:
            tokens: [1, n] int64, this rank's tokens of the row; read on the first stage only.
            positions: [1, n] int64, each token's position in its sequence.
            row: how the tokens are packed.

        Returns:
            On the last stage, the hidden states [l, hidden] at this rank's positions whose next token carries loss; ``head``
            turns them into logits. Elsewhere the hidden states [n, 1, hidden] for the next stage, [n / tp, 1, hidden] under
            sequence parallelism.
        """
        hidden = self.embedding(input_ids=tokens, position_ids=positions) if self.pre_process else None
        if hidden is not None and self.config.recompute_granularity == "full" and torch.is_grad_enabled():
            # Where adapters are trained the embedding is frozen. But megatron computes a layer again for the sake of its
            # input's gradient: if the first layer's wanted none, its adapters would get no gradient.
            hidden.requires_grad_()
        hidden = self.decoder(hidden_states=hidden, attention_mask=None, packed_seq_params=row)
        if not self.post_process:
            return hidden
        if self.config.sequence_parallel:
            # Gathers the tokens; its backward pass sums the ranks' gradients and scatters them over the slices.
            hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden)
            return hidden[:, 0].index_select(0, row.own_loss_index)
        return tensor_parallel.copy_to_tensor_model_parallel_region(hidden[:, 0].index_select(0, row.own_loss_index))
