"""Names and shapes of the Hugging Face tensors that a model's parameters are made of. Needs no torch.

learner/megatron/model/convert.py reads and exports these tensors and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from learner.config.architectures import (
    attention_bias,
    expert_count,
    has_qk_norm,
    head_dim,
    key_value_heads,
    layers_with_experts,
)
from learner.config.layer_parameters import (
    EXPERT_PARAMETERS,
    EXPERT_PREFIX,
    LAYER_PARAMETERS,
    LayerParameter,
    Part,
    Size,
)

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of all Hugging Face tensors that the model's parameters are made of, from a checked config.json."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    shapes: Shapes = {EMBEDDING: (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        shapes[HEAD] = (vocabulary, hidden)
    for layer, sparse in enumerate(layers_with_experts(config)):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer_shapes(config, sparse).items()}
    return shapes


def _layer_shapes(config: Mapping[str, Any], sparse: bool) -> Shapes:
    width, bias = head_dim(config), attention_bias(config)
    sizes: dict[Size, int] = {
        "hidden": config["hidden_size"],
        "head": width,
        "queries": config["num_attention_heads"] * width,
        "keys": key_value_heads(config) * width,
        "ffn": config["intermediate_size"],
        "experts": expert_count(config),
    }
    parts: set[Part] = {"every layer", "mixture" if sparse else "dense"}
    parts |= {"qkv bias"} if bias != "none" else set()
    parts |= {"output bias"} if bias == "all" else set()
    parts |= {"qk norm"} if has_qk_norm(config["model_type"]) else set()
    shapes = _shapes([found for found in LAYER_PARAMETERS.values() if found.part in parts], sizes)
    if sparse:
        one = _shapes(EXPERT_PARAMETERS.values(), {**sizes, "ffn": config["moe_intermediate_size"]})
        for expert in range(sizes["experts"]):
            shapes |= {f"{EXPERT_PREFIX}{expert}.{name}": shape for name, shape in one.items()}
    return shapes


def _shapes(parameters: Iterable[LayerParameter], sizes: Mapping[Size, int]) -> Shapes:
    return {name: tuple(sizes[size] for size in shape) for found in parameters for name, shape in found.tensors.items()}
