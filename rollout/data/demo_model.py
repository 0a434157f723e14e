"""Writes the demo's model: a Qwen3-shaped policy of about 0.6M random parameters and its digit-level tokenizer.

The files (config.json, model.safetensors, tokenizer.json, ...) are written without torch and transformers, which take
seconds to import; transformers, SGLang and the learner load the result like any other Hugging Face directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ("<eos>", "<pad>", "<bos>", "<unk>")
TOKENS = (*"0123456789", "+", "=", *SPECIAL)
EOS, PAD, BOS = (TOKENS.index(token) for token in ("<eos>", "<pad>", "<bos>"))

# What the second model knows besides: the turns of a conversation, and the call of a tool in the form that Qwen's models use,
# whose fixed parts are one token each. "?" is what the tool finds behind a wrong key.
CALL, CALL_END = '<tool_call>\n{"name": "lookup", "arguments": {"key": "', '"}}\n</tool_call>'
TOOL_TOKENS = ("<|user|>", "<|assistant|>", "<|tool|>", CALL, CALL_END, "<|tools|>", "lookup", "?")
CHAT_TEMPLATE = """{%- for tool in tools or [] -%}
{{- '<|tools|>' + tool.function.name + '<eos>' -}}
{%- endfor -%}
{%- for message in messages -%}
{{- '<|' + message.role + '|>' + message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments | tojson + '}\n</tool_call>' -}}
{%- endfor -%}
{{- '<eos>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class DemoShape:
    """Sizes of the model. The defaults give 594,688 parameters."""

    layers: int = 2
    hidden: int = 128
    ffn: int = 640
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    max_positions: int = 64


def write_model(directory: Path, seed: int, shape: DemoShape | None = None, *, tools: bool = False) -> int:
    """Writes a model directory; the same arguments give the same bytes. Returns the number of parameters.

    Args:
        directory: where to.
        seed: of the weights.
        shape: sizes of the model.
        tools: whether its tokenizer has the tokens of conversations and tool calls, and a chat template.
    """
    shape = shape or DemoShape()
    tokens = (*TOKENS, *TOOL_TOKENS) if tools else TOKENS
    directory.mkdir(parents=True, exist_ok=True)
    tensors = dict(_tensors(shape, len(tokens), np.random.default_rng(seed)))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)  # save_file leaves 0600: fleets may run as another user
    _write_json(directory / "config.json", _config(shape, len(tokens)))
    _write_json(directory / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    (directory / "tokenizer.json").write_text(_tokenizer(tokens).to_str(pretty=True) + "\n")
    if tools:
        (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
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


def _tensors(shape: DemoShape, vocabulary: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, float32 tensor [outputs, inputs]).

    Matrices are drawn with standard deviation 0.7 / sqrt(inputs), embeddings and head with 0.02; norms are 1.
    """

    def normal(outputs: int, inputs: int, scale: float) -> np.ndarray:
        return (rng.standard_normal((outputs, inputs)) * scale).astype(np.float32)

    def matrix(outputs: int, inputs: int) -> np.ndarray:
        return normal(outputs, inputs, 0.7 / inputs**0.5)

    def ones(size: int) -> np.ndarray:
        return np.ones(size, np.float32)

    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", normal(vocabulary, shape.hidden, 0.02)
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
    yield "lm_head.weight", normal(vocabulary, shape.hidden, 0.02)


def _config(shape: DemoShape, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocabulary,
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


def _tokenizer(tokens: tuple[str, ...]) -> Tokenizer:
    """Makes one token of each character; longer tokens are found in a text before it is cut into characters."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    longer = [token for token in tokens if len(token) > 1]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in longer])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    # Puts <bos> before every text, as the tokenizers of real models do.
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
