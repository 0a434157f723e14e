"""What layers are built of: our and megatron's own modules, or TransformerEngine's where there is a use for them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TENorm, TERowParallelLinear
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from learner.config import LearnerConfig
from learner.megatron.model.architecture import Architecture, ModelError
from learner.megatron.model.attention import PackedAttention, RMSNorm

_PACKAGE = "transformer_engine"

# The router looks this up without TransformerEngine too, whose import would have defined it (megatron-core 0.16.1).
if not hasattr(moe_utils, "te_general_gemm"):
    moe_utils.te_general_gemm = None  # type: ignore[attr-defined]


@dataclass(frozen=True)
class LayerBackend:
    """Modules that do the same and name their parameters alike, so that weights, checkpoints and published versions do not
    know which kit a model is built of. Norms stay apart from the linear layers behind them for that reason.

    Attention over packed rows is ours in every kit (learner.megatron.model.attention).
    """

    name: str
    column: Any  # linear layer cut along its output
    row: Any  # along its input
    norm: Any  # RMSNorm


OWN = LayerBackend("own", ColumnParallelLinear, RowParallelLinear, RMSNorm)
TRANSFORMER_ENGINE = LayerBackend(_PACKAGE, TEColumnParallelLinear, TERowParallelLinear, TENorm)


def select_backend(config: LearnerConfig) -> LayerBackend:
    """The kit that ``config.layers`` asks for; "auto": TransformerEngine's where it and CUDA exist and the dtype is bfloat16.

    Raises:
        ModelError: TransformerEngine is asked for and cannot run here.
    """
    missing = [] if torch.cuda.is_available() else ["a CUDA device"]
    missing += [] if importlib.util.find_spec(_PACKAGE) else [f"the package {_PACKAGE}"]
    if config.layers == "own" or (config.layers == "auto" and (missing or config.dtype != "bfloat16")):
        return OWN
    if missing:
        raise ModelError(
            f'layers = "{config.layers}" needs {" and ".join(missing)}, which this machine lacks: set layers = "own"'
        )
    return TRANSFORMER_ENGINE


def build_block_spec(
    kit: LayerBackend, architecture: Architecture, settings: TransformerConfig, chunk: int | None
) -> Any:
    """The layers of one piece of the model, and the norm behind the last; ``chunk``: which piece of this stage."""
    count, first = get_num_layers_to_build(settings, chunk), get_transformer_layer_offset(settings, chunk)
    dense, mixture = _layer(kit, architecture, None), architecture.mixture
    sparse = dense if mixture is None else _layer(kit, architecture, mixture.experts)
    layers = [sparse if architecture.has_experts(number) else dense for number in range(first, first + count)]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=kit.norm)


def _layer(kit: LayerBackend, architecture: Architecture, experts: int | None) -> Any:
    layer: Any = get_gpt_layer_local_spec(
        num_experts=experts, qk_layernorm=architecture.qk_norm, normalization="RMSNorm"
    )
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = kit.norm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = PackedAttention
    attention.linear_qkv, attention.linear_proj = kit.column, kit.row
    if architecture.qk_norm:
        attention.q_layernorm = attention.k_layernorm = kit.norm
    if experts is None:  # experts are megatron's own in every kit, one MLP after another
        mlp = layer.submodules.mlp.submodules
        mlp.linear_fc1, mlp.linear_fc2 = kit.column, kit.row
    return layer
