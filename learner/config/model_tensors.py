"""Names and shapes of the Hugging Face tensors that a model's parameters are made of. Needs no torch.

learner/megatron/model/convert.py reads and exports these tensors and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learner.config.architectures import (
    expert_count,
    has_qk_norm,
    has_qkv_bias,
    key_value_heads,
    layers_with_experts,
)
from learner.config.model_config import head_dim

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of all Hugging Face tensors that the model's parameters are made of, from a checked config.json."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    shapes: Shapes = {EMBEDDING: (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes[HEAD] = (vocabulary, hidden)
    for layer, sparse in enumerate(layers_with_experts(config)):
        prefix = f"model.layers.{layer}."
        inner = {**_attention_shapes(config), **(_expert_shapes(config) if sparse else _mlp_shapes(config, "mlp."))}
        shapes |= {prefix + name: shape for name, shape in inner.items()}
    return shapes


def _attention_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, width, heads = config["hidden_size"], head_dim(config), config["num_attention_heads"]
    rows = {"q": heads * width} | dict.fromkeys("kv", key_value_heads(config) * width)
    shapes: Shapes = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.o_proj.weight": (hidden, heads * width),
        **{f"self_attn.{x}_proj.weight": (count, hidden) for x, count in rows.items()},
    }
    if has_qkv_bias(config["model_type"]):
        shapes |= {f"self_attn.{x}_proj.bias": (count,) for x, count in rows.items()}
    if has_qk_norm(config["model_type"]):
        shapes |= {f"self_attn.{x}_norm.weight": (width,) for x in "qk"}
    return shapes


def _expert_shapes(config: Mapping[str, Any]) -> Shapes:
    experts, ffn = expert_count(config), config["moe_intermediate_size"]
    shapes: Shapes = {"mlp.gate.weight": (experts, config["hidden_size"])}
    for expert in range(experts):
        shapes |= _mlp_shapes({**config, "intermediate_size": ffn}, f"mlp.experts.{expert}.")
    return shapes


def _mlp_shapes(config: Mapping[str, Any], prefix: str) -> Shapes:
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {f"{prefix}{x}_proj.weight": (ffn, hidden) for x in ("gate", "up")}
    return {**shapes, f"{prefix}down_proj.weight": (hidden, ffn)}
