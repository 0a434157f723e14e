"""The modules that layers are built of: our own and megatron's, or TransformerEngine's where it helps."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TENorm, TERowParallelLinear
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from learner.config import LearnerConfig
from learner.megatron.model.architecture import Architecture, ModelError
from learner.megatron.model.attention import PackedAttention
from learner.megatron.model.gated_mlp import GatedMLP, RebuildingColumn, RebuildingRow
from learner.megatron.model.latent_attention import LatentAttention
from learner.megatron.model.rms_norm import RMSNorm
from learner.megatron.patches import router_gemm

_PACKAGE = "transformer_engine"

router_gemm.apply()


@dataclass(frozen=True)
class LayerBackend:
    """The modules that a model's layers are built of.

    All backends compute the same and name their parameters alike, so that weights, checkpoints and published versions are the
    same for each. For that reason norms are not fused with the linear layers behind them. Attention over packed rows is our
    own in every backend (learner.megatron.model.attention).

    Attributes:
        name: value of the setting ``layers`` that asks for this backend.
        column: class of linear layers that are split along their output.
        row: class of linear layers that are split along their input.
        norm: class of RMSNorm.
    """

    name: str
    column: Any
    row: Any
    norm: Any


OWN = LayerBackend("own", RebuildingColumn, RebuildingRow, RMSNorm)
TRANSFORMER_ENGINE = LayerBackend(_PACKAGE, TEColumnParallelLinear, TERowParallelLinear, TENorm)


def select_backend(config: LearnerConfig) -> LayerBackend:
    """Returns the backend that ``config.layers`` asks for.

    "auto" is TransformerEngine where it is installed, CUDA is available and the dtype is bfloat16, and "own" elsewhere.

    Raises:
        ModelError: TransformerEngine is asked for and cannot run on this machine.
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
    backend: LayerBackend, architecture: Architecture, settings: TransformerConfig, chunk: int | None
) -> Any:
    """Specifies the layers of one model chunk, and the norm behind the last layer.

    Args:
        backend: the modules to build them of.
        architecture: the model.
        settings: megatron's configuration of it.
        chunk: index of the model chunk on this stage; None without a virtual pipeline.
    """
    count, first = get_num_layers_to_build(settings, chunk), get_transformer_layer_offset(settings, chunk)
    dense, mixture = _layer(backend, architecture, None), architecture.mixture
    sparse = dense if mixture is None else _layer(backend, architecture, mixture.experts)
    layers = [sparse if architecture.has_experts(number) else dense for number in range(first, first + count)]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=backend.norm)


def _layer(backend: LayerBackend, architecture: Architecture, experts: int | None) -> Any:
    layer: Any = get_gpt_layer_local_spec(
        num_experts=experts, qk_layernorm=architecture.qk_norm, normalization="RMSNorm"
    )
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = backend.norm
    if architecture.latent is not None:
        modules = {"column": backend.column, "row": backend.row, "norm": backend.norm}
        layer.submodules.self_attention = ModuleSpec(LatentAttention, {"sizes": architecture.latent, **modules})
    else:
        attention = layer.submodules.self_attention.submodules
        attention.core_attention = PackedAttention
        attention.linear_qkv = backend.column
        attention.linear_proj = with_bias(backend.row) if architecture.output_bias else backend.row
        if architecture.qk_norm:
            attention.q_layernorm = attention.k_layernorm = backend.norm
    if experts is None:  # experts are megatron's own in every backend; see learner.megatron.model.grouped_experts
        mlp = submodules_of(layer.submodules.mlp)
        mlp.linear_fc1, mlp.linear_fc2 = backend.column, backend.row
    else:  # those that every token is sent to are a gated MLP like a dense layer's
        shared = submodules_of(submodules_of(layer.submodules.mlp).shared_experts)
        shared.linear_fc1, shared.linear_fc2 = backend.column, backend.row
    return layer


def with_bias(linear: Any) -> Any:
    """Returns a class of linear layers that have a bias, while megatron's setting for all layers says that none has."""

    class Biased(linear):
        def __init__(self, *sizes: Any, **options: Any) -> None:
            super().__init__(*sizes, **{**options, "bias": True})

    return Biased


def rebuild_cheap_tensors(model: torch.nn.Module) -> None:
    """Lets the outputs of norms and the products of gated MLPs be computed again in the backward pass instead of kept."""
    for module in model.modules():
        if isinstance(module, (RMSNorm, GatedMLP)):
            module.rebuilt = True


def submodules_of(spec: Any) -> Any:
    """Returns the submodules that a specification builds its module of, whose fields may be changed.

    megatron-core 0.16.1 specifies every module by a ModuleSpec, 0.19.2 an MLP by a ``partial`` of what builds it.
    """
    return spec.keywords["submodules"] if isinstance(spec, partial) else spec.submodules
