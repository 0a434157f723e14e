"""A model that says what it is told to: the next token depends on the last one alone, by a table that is written by hand.

It is a Qwen3 like any other to SGLang: embeddings are unit vectors, every layer computes and adds nothing, the head has the
table. So it can call a tool and answer once it has the result, without any training, and draws at random where the table
leaves a choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import printable

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from rollout.data.demo_model import DemoShape

START, END, AFTER_USER, AFTER_TOOL = "<|im_start|>", "<|im_end|>", "<|after_user|>", "<|after_tool|>"
_UNKNOWN = "<unk>"
_SURE = 40.0  # logit of what may follow; everything else has 0

Table = Mapping[str, Sequence[str]]

_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": '
# Calls the tool `add` with random numbers, and answers in words once it has a result.
TOOL_TABLE: Table = {
    AFTER_USER: ["Let me add."],
    "Let me add.": ["\n"],
    "\n": [_CALL],
    _CALL: [str(number) for number in range(11, 20)],
    **{str(number): [', "b": '] for number in range(11, 20)},
    ', "b": ': [str(number) for number in range(21, 30)],
    **{str(number): ["}}\n</tool_call>"] for number in range(21, 30)},
    "}}\n</tool_call>": [END],
    AFTER_TOOL: ["The tool says"],
    "The tool says": [" so", " much", " it"],
    " so": [" again", " once more"],
    " much": [" again", " once more"],
    " it": [" again", " once more"],
    " again": ["!"],
    " once more": ["!"],
    "!": [END],
}
_WORDS = [f" word{number}" for number in range(10)]
# Speaks until it is cut off.
TALK_TABLE: Table = {AFTER_USER: _WORDS, AFTER_TOOL: _WORDS, **dict.fromkeys(_WORDS, _WORDS)}

# The head of an answer says what it follows, because the model reads nothing else. No text before an answer ever changes.
_TEMPLATE = """\
{%- macro head(last) -%}{{ '<|after_tool|>' if last.role == 'tool' else '<|after_user|>' }}{%- endmacro -%}
{%- if tools -%}
<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call as <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{ head(loop.previtem) }}{{ message.content }}
{%- for call in message.tool_calls -%}
{{ '\\n' if message.content else '' }}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% else -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ head(messages[-1]) }}{%- endif -%}
"""


def write_chain_model(directory: Path, table: Table, shape: DemoShape | None = None) -> int:
    """Writes a model directory. Returns the number of parameters.

    Args:
        directory: is made.
        table: the tokens that may follow a token, each as likely as the others.
        shape: of the layers, whose only effect is that they take time.
    """
    shape = replace(shape or DemoShape(hidden=192), max_positions=4096)
    special = [_UNKNOWN, START, END, AFTER_USER, AFTER_TOOL]
    pieces = [*table, *(text for texts in table.values() for text in texts)]
    tokens = list(dict.fromkeys([*special, *printable, *pieces]))
    assert len(tokens) <= shape.hidden, f"{len(tokens)} tokens need as many hidden dimensions"
    directory.mkdir(parents=True)
    tensors = dict(_tensors(shape, tokens, table))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    _write(directory / "config.json", _config(shape, len(tokens), tokens.index(END)))
    _write(directory / "generation_config.json", {"eos_token_id": tokens.index(END)})
    _write(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END})
    (directory / "tokenizer.json").write_text(_tokenizer(tokens, len(special)).to_str())
    (directory / "chat_template.jinja").write_text(_TEMPLATE)
    return sum(tensor.size for tensor in tensors.values())


def _tensors(shape: DemoShape, tokens: list[str], table: Table) -> Iterator[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(0)

    def matrix(outputs: int, inputs: int) -> np.ndarray:
        return (draw.standard_normal((outputs, inputs)) * inputs**-0.5).astype(np.float32)

    embedding = np.eye(len(tokens), shape.hidden, dtype=np.float32)
    head = np.zeros((len(tokens), shape.hidden), np.float32)
    for token, texts in table.items():
        for text in texts:
            head[tokens.index(text), tokens.index(token)] = _SURE / shape.hidden**0.5  # the norm scales unit vectors up
    yield "model.embed_tokens.weight", embedding
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", np.ones(shape.hidden, np.float32)
        yield prefix + "self_attn.q_proj.weight", matrix(shape.heads * shape.head_dim, shape.hidden)
        yield prefix + "self_attn.k_proj.weight", matrix(shape.kv_heads * shape.head_dim, shape.hidden)
        yield prefix + "self_attn.v_proj.weight", matrix(shape.kv_heads * shape.head_dim, shape.hidden)
        yield prefix + "self_attn.o_proj.weight", np.zeros((shape.hidden, shape.heads * shape.head_dim), np.float32)
        yield prefix + "self_attn.q_norm.weight", np.ones(shape.head_dim, np.float32)
        yield prefix + "self_attn.k_norm.weight", np.ones(shape.head_dim, np.float32)
        yield prefix + "post_attention_layernorm.weight", np.ones(shape.hidden, np.float32)
        yield prefix + "mlp.gate_proj.weight", matrix(shape.ffn, shape.hidden)
        yield prefix + "mlp.up_proj.weight", matrix(shape.ffn, shape.hidden)
        yield prefix + "mlp.down_proj.weight", np.zeros((shape.hidden, shape.ffn), np.float32)
    yield "model.norm.weight", np.ones(shape.hidden, np.float32)
    yield "lm_head.weight", head


def _config(shape: DemoShape, vocab_size: int, end: int) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": vocab_size,
        "hidden_size": shape.hidden, "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "hidden_act": "silu", "max_position_embeddings": shape.max_positions, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "attention_bias": False, "tie_word_embeddings": False, "use_sliding_window": False, "eos_token_id": end,
        "torch_dtype": "float32",
    }  # fmt: skip


def _tokenizer(tokens: list[str], special: int) -> Tokenizer:
    """Makes one token of each printable character, and one of each piece of the table."""
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=_UNKNOWN))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens[:special]])
    pieces = [token for token in tokens[special:] if len(token) > 1]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
