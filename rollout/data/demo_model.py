"""The demo's model, made on the spot: a Qwen3-shaped policy of about 0.6M parameters and its digit-level tokenizer.

Written file by file (config.json, model.safetensors, tokenizer.json, ...) so that neither torch nor transformers is
imported; transformers, SGLang and the learner load the result like any other Hugging Face directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SPECIAL = ("<eos>", "<pad>", "<bos>", "<unk>")
TOKENS = (*"0123456789", "+", "=", *SPECIAL)
EOS, PAD, BOS = (TOKENS.index(token) for token in ("<eos>", "<pad>", "<bos>"))


@dataclass(frozen=True)
class DemoShape:
    """Sizes of the model. The defaults give 0.595M parameters."""

    layers: int = 2
    hidden: int = 128
    ffn: int = 640
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    max_positions: int = 64


def write_model(directory: Path, seed: int, shape: DemoShape | None = None) -> int:
    """Writes the model; the same seed and shape give the same bytes. Returns the number of parameters."""
    shape = shape or DemoShape()
    directory.mkdir(parents=True, exist_ok=True)
    tensors = dict(_tensors(shape, np.random.default_rng(seed)))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)  # save_file leaves 0600: fleets may run as another user
    _write_json(directory / "config.json", _config(shape))
    _write_json(directory / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    _write_json(directory / "tokenizer.json", _tokenizer())
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "model_max_length": shape.max_positions,
            "clean_up_tokenization_spaces": False,
        },
    )
    return sum(tensor.size for tensor in tensors.values())


def _tensors(shape: DemoShape, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Matrices N(0, 0.7 / sqrt(inputs)), embeddings and head N(0, 0.02), norms 1; float32 [outputs, inputs]."""

    def normal(outputs: int, inputs: int, scale: float) -> np.ndarray:
        return (rng.standard_normal((outputs, inputs)) * scale).astype(np.float32)

    def matrix(outputs: int, inputs: int) -> np.ndarray:
        return normal(outputs, inputs, 0.7 / inputs**0.5)

    def ones(size: int) -> np.ndarray:
        return np.ones(size, np.float32)

    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", normal(len(TOKENS), shape.hidden, 0.02)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", ones(shape.hidden)
        yield prefix + "self_attn.q_proj.weight", matrix(queries, shape.hidden)
        yield prefix + "self_attn.k_proj.weight", matrix(keys, shape.hidden)
        yield prefix + "self_attn.v_proj.weight", matrix(keys, shape.hidden)
        yield prefix + "self_attn.o_proj.weight", matrix(shape.hidden, queries)
        yield prefix + "self_attn.q_norm.weight", ones(shape.head_dim)
        yield prefix + "self_attn.k_norm.weight", ones(shape.head_dim)
        yield prefix + "post_attention_layernorm.weight", ones(shape.hidden)
        yield prefix + "mlp.gate_proj.weight", matrix(shape.ffn, shape.hidden)
        yield prefix + "mlp.up_proj.weight", matrix(shape.ffn, shape.hidden)
        yield prefix + "mlp.down_proj.weight", matrix(shape.hidden, shape.ffn)
    yield "model.norm.weight", ones(shape.hidden)
    yield "lm_head.weight", normal(len(TOKENS), shape.hidden, 0.02)


def _config(shape: DemoShape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": len(TOKENS),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "use_sliding_window": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "float32",
    }


def _tokenizer() -> dict[str, Any]:
    """One token per character; the special tokens by their names in angle brackets."""
    added = [
        {
            "id": TOKENS.index(token),
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in SPECIAL
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        # Puts <bos> before every text, as real models' tokenizers do.
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {token: index for index, token in enumerate(TOKENS)},
            "unk_token": "<unk>",
        },
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
