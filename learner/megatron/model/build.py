"""Builds the policy, a megatron GPTModel over packed rows, and loads its weights from a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.transformer.transformer_config import TransformerConfig

from learner.config import LearnerConfig, ParallelConfig
from learner.config.architectures import chunk_layers, vocabulary_rows
from learner.megatron.model import correction_bias
from learner.megatron.model.adapter import AdapterSettings
from learner.megatron.model.architecture import Architecture
from learner.megatron.model.convert import load_weights
from learner.megatron.model.gated_mlp import GatedMLP
from learner.megatron.model.grouped_experts import GroupedExperts
from learner.megatron.model.hf_weights import Weights
from learner.megatron.model.kernels import Kernels
from learner.megatron.model.layers import LayerBackend, build_block_spec, rebuild_cheap_tensors, select_backend
from learner.megatron.model.lora import adapt
from learner.megatron.model.packed_model import PackedModel, Policy
from learner.megatron.model.routing_replay import RoutingReplay
from learner.megatron.parallel import Ranks
from learner.megatron.patches import expert_gradients

# Weights whose gradients are reduced together, and that are gathered together; None: as many as megatron thinks best.
BUCKET_WEIGHTS: int | None = None


def load_policy(model_dir: Path, ranks: Ranks, config: LearnerConfig) -> Policy:
    """Builds this rank's shard of the model and loads its weights from ``model_dir``. Collective.

    Raises:
        ModelError: the model cannot be read, is not supported, cannot be divided as ``config.parallel`` asks, or cannot have
            the adapters of ``config.lora``; or ``config.layers`` asks for a backend that cannot run here.
    """
    backend = select_backend(config)
    architecture = Architecture.read(model_dir)
    architecture.check_layout(config.parallel)
    architecture.check_adapters(config.lora, config.parallel)
    architecture.check_balance(config.optimizer.expert_bias_rate)
    if config.replay_routing:
        architecture.check_replay()
    weights = Weights(model_dir)
    weights.check(architecture.config)
    kernels = Kernels.select(
        config.fused_kernels, ranks.device, getattr(torch, config.dtype), architecture.widest_head, ranks.context_size
    )
    if ranks.device.type == "cuda":
        # It plans every new length of a sequence for 0.1 s. What is left of padded calls goes to Flash.
        torch.backends.cuda.enable_cudnn_sdp(False)
    settings = TransformerConfig(
        **_settings(architecture, ranks, config),
        **_mixture(architecture, ranks),
        **_recompute(config.recompute),
        **_fusions(kernels),
    )
    chunks = []
    for chunk in range(ranks.chunks):
        model = _chunk(backend, architecture, settings, ranks, chunk, config.recompute)
        if config.grouped_experts:
            GroupedExperts.adopt(model)
        load_weights(model, architecture, weights, ranks)
        if config.lora is not None:
            like = AdapterSettings(config.lora.rank, config.lora.scaling, settings.params_dtype, config.seed)
            adapt(model, architecture, config.lora, ranks, like)
        chunks.append(DistributedDataParallel(settings, _sharding(config, ranks), model, disable_bucketing=chunk > 0))
    replay = _replay(chunks, architecture, ranks) if config.replay_routing else None
    return Policy(chunks, settings, architecture, architecture.rotary(), kernels, replay, config.lora)


def _replay(chunks: list[DistributedDataParallel], architecture: Architecture, ranks: Ranks) -> RoutingReplay | None:
    shape = architecture.routing
    return None if shape is None else RoutingReplay([chunk.module for chunk in chunks], shape.layers, ranks)


def _sharding(config: LearnerConfig, ranks: Ranks) -> DistributedDataParallelConfig:
    """Megatron's settings of gradients and of the optimizer's state, which data- and context-parallel ranks share."""
    overlap = config.overlap if config.overlap is not None else ranks.device.type == "cuda"
    overlap = overlap and ranks.replicas > 1
    return DistributedDataParallelConfig(
        use_distributed_optimizer=True,
        grad_reduce_in_fp32=config.gradients == "float32",
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap,
        bucket_size=BUCKET_WEIGHTS,
    )


def _chunk(
    backend: LayerBackend,
    architecture: Architecture,
    settings: TransformerConfig,
    ranks: Ranks,
    chunk: int,
    recompute: str,
) -> PackedModel:
    virtual_stage = chunk if ranks.chunks > 1 else None
    model = PackedModel(
        settings,
        build_block_spec(backend, architecture, settings, virtual_stage),
        vocab_size=vocabulary_rows(architecture.vocab, ranks.tensor_size),
        max_sequence_length=architecture.max_positions,
        pre_process=ranks.is_first_stage and chunk == 0,
        post_process=ranks.is_last_stage and chunk == ranks.chunks - 1,
        parallel_output=True,
        share_embeddings_and_output_weights=architecture.tied,
        position_embedding_type="none",
        vp_stage=virtual_stage,
    ).to(ranks.device)
    if architecture.mixture is not None and architecture.mixture.corrected:
        correction_bias.attach(model)
    if backend.name == "own":
        GatedMLP.adopt(model)
    if recompute == "selective":
        rebuild_cheap_tensors(model)
    expert_gradients.mark(model)
    return model


def _mixture(architecture: Architecture, ranks: Ranks) -> dict[str, Any]:
    """Megatron's settings of a mixture of experts; empty for a dense model."""
    mixture = architecture.mixture
    if mixture is None:
        return {}
    return {
        "num_moe_experts": mixture.experts,
        "moe_router_topk": mixture.chosen,
        # A softmax over the chosen logits equals the softmax over all of them, scaled to sum to 1 over the chosen. Weights of
        # a sigmoid router are always scaled so, unless one expert is chosen.
        "moe_router_pre_softmax": not mixture.normalised,
        "moe_router_score_function": mixture.score,
        "moe_router_topk_scaling_factor": None if mixture.scaling == 1 else mixture.scaling,
        "moe_shared_expert_intermediate_size": mixture.shared or None,
        "moe_router_num_groups": mixture.groups if mixture.groups > 1 else None,
        "moe_router_group_topk": mixture.chosen_groups if mixture.groups > 1 else None,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        "moe_ffn_hidden_size": mixture.ffn,
        "moe_layer_freq": 1 if all(mixture.layers) else [int(sparse) for sparse in mixture.layers],
        "expert_model_parallel_size": ranks.expert_size,
        "expert_tensor_parallel_size": 1,
    }


def _recompute(kind: str) -> dict[str, Any]:
    """Megatron's settings for recomputing all of a layer but its input; what "selective" recomputes is not megatron's."""
    if kind == "full":
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return {}


def _fusions(kernels: Kernels) -> dict[str, Any]:
    """Megatron's settings of fused kernels."""
    return {
        # Compiled by torch, without TransformerEngine or apex: keeps the activation's input only.
        "bias_activation_fusion": kernels.fused,
        "persist_layer_norm": kernels.fused,  # read by learner.megatron.model.rms_norm
        # The others come with TransformerEngine or apex, or do nothing for these models.
        "gradient_accumulation_fusion": False,
        "masked_softmax_fusion": False,
        "bias_dropout_fusion": False,
        "apply_rope_fusion": False,
    }


def _pipeline_layout(layers: int, parallel: ParallelConfig) -> list[list[str]] | None:
    """Megatron's setting of what each model chunk has; None where all have equally many layers, which it knows by itself."""
    chunks = chunk_layers(layers, parallel)
    if len({len(own) for own in chunks}) == 1:
        return None
    layout = [["decoder"] * len(own) for own in chunks]
    layout[0].insert(0, "embedding")
    layout[-1].append("loss")
    return layout


def _settings(architecture: Architecture, ranks: Ranks, config: LearnerConfig) -> dict[str, Any]:
    dtype = getattr(torch, config.dtype)
    interleaved = ranks.chunks > 1
    return {
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
        "virtual_pipeline_model_parallel_size": ranks.chunks if interleaved else None,
        "pipeline_model_parallel_layout": _pipeline_layout(architecture.layers, config.parallel),
        # Interleaved stages exchange two tensors with the same peer at once. In one batch of operations, the peers could
        # match them in the wrong order.
        "overlap_p2p_comm": interleaved,
        "batch_p2p_comm": not interleaved,
        "context_parallel_size": ranks.context_size,
        "sequence_parallel": ranks.sequence,
        # Each micro-batch has its own length. With that megatron demands this dispatcher, of models without experts too.
        "variable_seq_lengths": ranks.pipeline_size > 1,
        "moe_token_dispatcher_type": "alltoall",
        "use_cpu_initialization": ranks.device.type == "cpu",
        # The loss is a plain sum: no division by micro-batches in the schedule nor by ranks in the gradient reduction.
        "calculate_per_token_loss": True,
        # Interleaved stages free a tensor while it may still be in transit: gloo would send whatever is in that memory next.
        "deallocate_pipeline_outputs": not interleaved,
    }
