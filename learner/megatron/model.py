"""The policy: a megatron GPTModel over packed rows, built and filled from a Hugging Face directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from learner.config import LearnerConfig
from learner.megatron.architecture import Architecture, ModelError
from learner.megatron.attention import PackedAttention, PackedRow, RMSNorm
from learner.megatron.convert import load_weights
from learner.megatron.parallel import Ranks
from learner.megatron.weights import Weights

__all__ = ["ModelError", "PackedModel", "Policy", "load_policy"]


@dataclass(frozen=True)
class Policy:
    """This rank's part of the model.

    Attributes:
        module: the model's part inside megatron's data-parallel wrapper.
        inverse_frequencies: [head_dim / 2] float32 in host memory, the rotary angles per position.
    """

    module: DistributedDataParallel
    transformer_config: TransformerConfig
    architecture: Architecture
    inverse_frequencies: Tensor

    @property
    def vocab_size(self) -> int:
        return self.architecture.vocab

    @property
    def model(self) -> PackedModel:
        return cast(PackedModel, self.module.module)

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer_config.params_dtype


class PackedModel(GPTModel):
    """GPTModel over one packed row, with logits only where a token carries loss.

    Its rotary positions are applied in the attention (learner.megatron.attention), not by GPTModel.
    """

    def forward(self, tokens: Tensor, positions: Tensor, row: PackedRow, loss_index: Tensor) -> Tensor:
        """Args:
            tokens: [1, T] int64; read on the first stage.
            positions: [1, T] int64.
            row: how the T tokens are packed.
            loss_index: [L] int64: positions whose logits are wanted; read on the last stage.

        Returns:
            The last stage's logits [L, V / tp], or the hidden states [T, 1, hidden] for the next stage ([T / tp, 1, hidden]
            under sequence parallelism).
        """
        hidden = self.embedding(input_ids=tokens, position_ids=positions) if self.pre_process else None
        hidden = self.decoder(hidden_states=hidden, attention_mask=None, packed_seq_params=row)
        if not self.post_process:
            return hidden
        if self.config.sequence_parallel:
            # Gathers the tokens; backward sums each rank's part of the gradient into the slices.
            hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden)
            chosen = hidden[:, 0].index_select(0, loss_index)
        else:
            chosen = hidden[:, 0].index_select(0, loss_index)
            chosen = tensor_parallel.copy_to_tensor_model_parallel_region(chosen)
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        return F.linear(chosen, cast(Tensor, weight))


def load_policy(model_dir: Path, ranks: Ranks, config: LearnerConfig) -> Policy:
    """Builds this rank's part of the model and fills it from ``model_dir``. Collective.

    Raises:
        ModelError: see Architecture.read, Architecture.check_layout and Weights.
    """
    architecture = Architecture.read(model_dir)
    architecture.check_layout(config.parallel)
    weights = Weights(model_dir)
    settings = _settings(architecture, ranks, getattr(torch, config.dtype))
    model = PackedModel(
        settings,
        _layers(architecture, settings),
        vocab_size=architecture.vocab,
        max_sequence_length=architecture.max_positions,
        pre_process=ranks.is_first_stage,
        post_process=ranks.is_last_stage,
        parallel_output=True,
        share_embeddings_and_output_weights=architecture.tied,
        position_embedding_type="none",
    ).to(ranks.device)
    load_weights(model, architecture, weights, ranks)
    wrapped = DistributedDataParallel(
        settings, DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True), model
    )
    return Policy(wrapped, settings, architecture, architecture.inverse_frequencies())


def _layers(architecture: Architecture, settings: TransformerConfig) -> Any:
    layer: Any = get_gpt_layer_local_spec(qk_layernorm=architecture.qk_norm, normalization="RMSNorm")
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = PackedAttention
    if architecture.qk_norm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    norm: Any = RMSNorm
    return TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(settings), layer_norm=norm)


def _settings(architecture: Architecture, ranks: Ranks, dtype: torch.dtype) -> TransformerConfig:
    options: dict[str, Any] = {
        "num_layers": architecture.layers,
        "hidden_size": architecture.hidden,
        "ffn_hidden_size": architecture.ffn,
        "num_attention_heads": architecture.heads,
        "num_query_groups": architecture.groups,
        "kv_channels": architecture.head_dim,
        "normalization": "RMSNorm",
        "layernorm_epsilon": architecture.norm_eps,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "add_qkv_bias": architecture.qkv_bias,
        "qk_layernorm": architecture.qk_norm,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "tensor_model_parallel_size": ranks.tensor_size,
        "pipeline_model_parallel_size": ranks.pipeline_size,
        "sequence_parallel": ranks.sequence,
        "use_cpu_initialization": ranks.device.type == "cpu",
        # The loss is a plain sum: no division by micro-batches in the schedule nor by ranks in the gradient reduction.
        "calculate_per_token_loss": True,
        "deallocate_pipeline_outputs": True,
        # Fused kernels come with TransformerEngine or apex.
        "gradient_accumulation_fusion": False,
        "masked_softmax_fusion": False,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "apply_rope_fusion": False,
    }
    return TransformerConfig(**options)
