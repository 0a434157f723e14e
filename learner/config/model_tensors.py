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
    router_of,
    shared_width,
)
from learner.config.latent import latent
from learner.config.layer_parameters import (
    EXPERT_PARAMETERS,
    EXPERT_PREFIX,
    LAYER_PARAMETERS,
    LayerParameter,
    Part,
    Size,
)
from learner.config.model_types import MODEL_TYPES

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


def is_left_out(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a Hugging Face tensor belongs to a layer that predicts further tokens, which is neither trained nor published.

    Such layers (multi-token prediction) stand behind the last layer; only speculative decoding uses them.
    """
    if not MODEL_TYPES[config["model_type"]].drafts:
        return False
    first = config["num_hidden_layers"]
    layers = range(first, first + (config.get("num_nextn_predict_layers") or 0))
    return any(name.startswith(f"model.layers.{layer}.") for layer in layers)


def _layer_shapes(config: Mapping[str, Any], sparse: bool) -> Shapes:
    width, bias = head_dim(config), attention_bias(config)
    sizes: dict[Size, int] = {
        "hidden": config["hidden_size"],
        "head": width,
        "queries": config["num_attention_heads"] * width,
        "keys": key_value_heads(config) * width,
        "attended": config["num_attention_heads"] * width,
        "ffn": config["intermediate_size"],
        "experts": expert_count(config),
    }
    parts: set[Part] = {"every layer", "mixture" if sparse else "dense"}
    sizes |= _latent_sizes(config)
    parts |= _latent_parts(config) or ({"grouped", "qkv bias"} if bias != "none" else {"grouped"})
    parts |= {"output bias"} if bias == "all" else set()
    parts |= {"qk norm"} if has_qk_norm(config) else set()
    if sparse:
        sizes["shared"] = shared_width(config)
        router = router_of(config)
        parts |= {"shared experts"} if sizes["shared"] else set()
        parts |= {"correction bias"} if router is not None and router.corrected else set()
    shapes = _shapes([found for found in LAYER_PARAMETERS.values() if found.part in parts], sizes)
    if sparse:
        one = _shapes(EXPERT_PARAMETERS.values(), {**sizes, "ffn": config["moe_intermediate_size"]})
        for expert in range(sizes["experts"]):
            shapes |= {f"{EXPERT_PREFIX}{expert}.{name}": shape for name, shape in one.items()}
    return shapes


def _latent_sizes(config: Mapping[str, Any]) -> dict[Size, int]:
    """Sizes of attention with latents; empty for grouped-query attention."""
    found = latent(config)
    if found is None:
        return {}
    heads = config["num_attention_heads"]
    return {
        "attended": heads * found.value,
        "query latent": found.query_rank or 0,
        "latent": found.rank,
        "latent and rotated": found.rank + found.rotated,
        "plain and values": heads * (found.plain + found.value),
    }


def _latent_parts(config: Mapping[str, Any]) -> set[Part]:
    """Parts of a layer whose attention has latents; empty for grouped-query attention."""
    found = latent(config)
    if found is None:
        return set()
    parts: set[Part] = {"latent", "no query latent" if found.query_rank is None else "query latent"}
    if found.bias:
        parts |= {"latent bias"} if found.query_rank is None else {"latent bias", "query latent bias"}
    return parts


def _shapes(parameters: Iterable[LayerParameter], sizes: Mapping[Size, int]) -> Shapes:
    return {name: tuple(sizes[size] for size in shape) for found in parameters for name, shape in found.tensors.items()}
