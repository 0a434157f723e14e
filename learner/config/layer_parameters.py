"""The parameters of a layer: the Hugging Face tensors that each is made of, their shapes, and how ranks cut it. No torch.

learner/megatron/model/convert.py loads and exports by this table, and model_tensors.py derives a model's tensors from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain", "qkv", "glu", "vocabulary"]  # how Hugging Face tensors are joined to one parameter
# "latent": attention with latents (learner/config/latent.py), whose queries have one, or none.
Part = Literal[
    "every layer", "grouped", "qkv bias", "output bias", "qk norm", "dense", "mixture",
    "latent", "latent bias", "query latent", "query latent bias", "no query latent", "correction bias", "shared experts",
]  # fmt: skip
# Channels of the model, of a head, of all query heads, of all key heads, of all heads' outputs, of the gated MLP's hidden
# layer; number of experts; channels of the hidden layer of the experts that every token is sent to. Of attention with
# latents: the queries' latent, that of keys and values, the latter with the keys' rotated channels behind it, and all heads'
# plain channels of keys with their values.
Size = Literal[
    "hidden", "head", "queries", "keys", "attended", "ffn", "experts", "shared",
    "query latent", "latent", "latent and rotated", "plain and values",
]  # fmt: skip


@dataclass(frozen=True)
class LayerParameter:
    """A parameter of a layer.

    Attributes:
        tensors: shape of each Hugging Face tensor that is joined to the parameter, by its name within the layer.
        dim: dimension that tensor-parallel ranks split the parameter along; None if each has all of it.
        kind: how the tensors are joined.
        part: which layers have it.
    """

    tensors: Mapping[str, tuple[Size, ...]]
    dim: int | None = None
    kind: Kind = "plain"
    part: Part = "every layer"


# By the parameter's name within its layer, as megatron has it.
LAYER_PARAMETERS: dict[str, LayerParameter] = {
    "input_layernorm.weight": LayerParameter({"input_layernorm.weight": ("hidden",)}),
    "pre_mlp_layernorm.weight": LayerParameter({"post_attention_layernorm.weight": ("hidden",)}),
    "self_attention.linear_qkv.weight": LayerParameter(
        {
            "self_attn.q_proj.weight": ("queries", "hidden"),
            "self_attn.k_proj.weight": ("keys", "hidden"),
            "self_attn.v_proj.weight": ("keys", "hidden"),
        },
        0,
        "qkv",
        "grouped",
    ),
    "self_attention.linear_qkv.bias": LayerParameter(
        {"self_attn.q_proj.bias": ("queries",), "self_attn.k_proj.bias": ("keys",), "self_attn.v_proj.bias": ("keys",)},
        0,
        "qkv",
        "qkv bias",
    ),
    "self_attention.linear_proj.weight": LayerParameter({"self_attn.o_proj.weight": ("hidden", "attended")}, 1),
    "self_attention.linear_proj.bias": LayerParameter({"self_attn.o_proj.bias": ("hidden",)}, part="output bias"),
    "self_attention.q_layernorm.weight": LayerParameter({"self_attn.q_norm.weight": ("head",)}, part="qk norm"),
    "self_attention.k_layernorm.weight": LayerParameter({"self_attn.k_norm.weight": ("head",)}, part="qk norm"),
    "self_attention.linear_q_proj.weight": LayerParameter(
        {"self_attn.q_proj.weight": ("queries", "hidden")}, 0, part="no query latent"
    ),
    "self_attention.linear_q_down_proj.weight": LayerParameter(
        {"self_attn.q_a_proj.weight": ("query latent", "hidden")}, part="query latent"
    ),
    "self_attention.linear_q_down_proj.bias": LayerParameter(
        {"self_attn.q_a_proj.bias": ("query latent",)}, part="query latent bias"
    ),
    "self_attention.q_latent_layernorm.weight": LayerParameter(
        {"self_attn.q_a_layernorm.weight": ("query latent",)}, part="query latent"
    ),
    "self_attention.linear_q_up_proj.weight": LayerParameter(
        {"self_attn.q_b_proj.weight": ("queries", "query latent")}, 0, part="query latent"
    ),
    "self_attention.linear_kv_down_proj.weight": LayerParameter(
        {"self_attn.kv_a_proj_with_mqa.weight": ("latent and rotated", "hidden")}, part="latent"
    ),
    "self_attention.linear_kv_down_proj.bias": LayerParameter(
        {"self_attn.kv_a_proj_with_mqa.bias": ("latent and rotated",)}, part="latent bias"
    ),
    "self_attention.kv_latent_layernorm.weight": LayerParameter(
        {"self_attn.kv_a_layernorm.weight": ("latent",)}, part="latent"
    ),
    "self_attention.linear_kv_up_proj.weight": LayerParameter(
        {"self_attn.kv_b_proj.weight": ("plain and values", "latent")}, 0, part="latent"
    ),
    "mlp.linear_fc1.weight": LayerParameter(
        {"mlp.gate_proj.weight": ("ffn", "hidden"), "mlp.up_proj.weight": ("ffn", "hidden")}, 0, "glu", "dense"
    ),
    "mlp.linear_fc2.weight": LayerParameter({"mlp.down_proj.weight": ("hidden", "ffn")}, 1, part="dense"),
    "mlp.router.weight": LayerParameter({"mlp.gate.weight": ("experts", "hidden")}, part="mixture"),
    # Float32 in any model and version, and without a gradient: learner/megatron/model/correction_bias.py.
    "mlp.router.expert_bias": LayerParameter(
        {"mlp.gate.e_score_correction_bias": ("experts",)}, part="correction bias"
    ),
    "mlp.shared_experts.linear_fc1.weight": LayerParameter(
        {
            "mlp.shared_experts.gate_proj.weight": ("shared", "hidden"),
            "mlp.shared_experts.up_proj.weight": ("shared", "hidden"),
        },
        0,
        "glu",
        "shared experts",
    ),
    "mlp.shared_experts.linear_fc2.weight": LayerParameter(
        {"mlp.shared_experts.down_proj.weight": ("hidden", "shared")}, 1, part="shared experts"
    ),
}

EXPERT_PREFIX = "mlp.experts."  # in a layer, before an expert's number
# By the parameter's name within an expert. Tensor-parallel ranks never cut an expert.
EXPERT_PARAMETERS: dict[str, LayerParameter] = {
    "linear_fc1.weight": LayerParameter(
        {"gate_proj.weight": ("ffn", "hidden"), "up_proj.weight": ("ffn", "hidden")}, None, "glu", "mixture"
    ),
    "linear_fc2.weight": LayerParameter({"down_proj.weight": ("hidden", "ffn")}, part="mixture"),
}
