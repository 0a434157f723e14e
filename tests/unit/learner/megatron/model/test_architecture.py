"""Reading config.json: what is accepted, what is refused and how, and which layouts a model allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.config import ParallelConfig
from learner.megatron.model.architecture import Architecture, ModelError

BASE: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "head_dim": 16,
}  # fmt: skip
MOE: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
    "norm_topk_prob": True,
}  # fmt: skip


def _read(directory: Path, **changes: Any) -> Architecture:
    values = {name: value for name, value in (BASE | changes).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(values))
    return Architecture.read(directory)


def test_old_and_new_rope_layouts_agree(tmp_path):
    old = _read(tmp_path)
    new = _read(tmp_path, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert old.rope["rope_theta"] == new.rope["rope_theta"] == 1e6
    assert torch.equal(old.rotary().inverse_frequencies, new.rotary().inverse_frequencies)
    assert old.rotary().inverse_frequencies[:2].tolist() == pytest.approx([1.0, 1e6 ** (-1 / 8)])  # head_dim 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, ["model_type = 'gpt2'", "llama, mistral, ministral, qwen2"]),
        ({"model_type": "mixtral", "num_local_experts": 8}, ["model_type = 'mixtral'", "qwen3, qwen3_moe"]),
        ({**MOE, "num_experts": None}, ["num_local_experts is missing"]),
        ({**MOE, "num_experts_per_tok": 7}, ["num_experts_per_tok = 7 is above num_experts = 6"]),
        ({**MOE, "num_experts_per_tok": 1}, ["norm_topk_prob = true", "num_experts_per_tok = 1"]),
        ({**MOE, "moe_intermediate_size": None}, ["moe_intermediate_size is missing"]),
        ({**MOE, "decoder_sparse_step": 5}, ["decoder_sparse_step = 5", "no layer with experts"]),
        ({"num_hidden_layers": None}, ["num_hidden_layers is missing"]),
        ({"vocab_size": 0}, ["vocab_size = 0", "positive integer"]),
        ({"model_type": "qwen2", "attention_bias": True}, ["attention_bias = True"]),
        ({"hidden_act": "gelu"}, ["hidden_act = 'gelu'", "'silu'"]),
        ({"layer_types": ["sliding_attention"]}, ["sliding_attention", "full_attention"]),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, ["rope_type = 'dynamic'", "llama3, yarn"]),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, ["low_freq_factor", "None"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads = 4", "num_key_value_heads = 3"]),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, changes, words):
    with pytest.raises(ModelError) as caught:
        _read(tmp_path, **changes)
    assert all(word in str(caught.value) for word in [str(tmp_path), *words])


def test_missing_directory_and_file_are_told_apart(tmp_path):
    with pytest.raises(ModelError, match="no such directory"):
        Architecture.read(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.json: No such file"):
        Architecture.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        Architecture.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "parallel", "message"),
    [
        (
            {},
            {"tensor": 8},
            r"tensor = 8 does not divide the model's num_attention_heads = 4: set it to one of \[1, 2, 4\]",
        ),
        ({}, {"expert": 2}, r"learner\.parallel\.expert = 2: the model is dense"),
        (MOE, {"tensor": 2, "expert": 2}, r"learner\.parallel\.tensor = 2 needs learner\.parallel\.sequence = true"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(tmp_path, changes, parallel, message):
    with pytest.raises(ModelError, match=message) as caught:
        _read(tmp_path, **changes).check_layout(ParallelConfig(**parallel))
    assert str(caught.value).startswith(f"{tmp_path}/config.json: ")


@pytest.mark.parametrize(
    ("changes", "bias"),
    [
        ({"model_type": "qwen2"}, (True, False)),
        ({"model_type": "mistral", "sliding_window": 512}, (False, False)),
        ({"attention_bias": False}, (False, False)),
        ({"attention_bias": True}, (True, True)),
        ({"model_type": "llama", "attention_bias": True}, (True, True)),
        (MOE | {"attention_bias": True}, (True, True)),
    ],
)
def test_which_projections_have_a_bias(tmp_path, changes, bias):
    architecture = _read(tmp_path, **changes)
    assert (architecture.qkv_bias, architecture.output_bias) == bias


def test_which_layers_have_experts(tmp_path):
    def sparse(**changes: Any) -> list[bool]:
        architecture = _read(tmp_path, **MOE | changes)
        return [architecture.has_experts(layer) for layer in range(4)]

    assert sparse() == [True] * 4
    assert sparse(mlp_only_layers=[1, 2]) == [True, False, False, True]
    assert sparse(decoder_sparse_step=2) == [False, True, False, True]
    assert sparse(decoder_sparse_step=2, mlp_only_layers=[1]) == [False, False, False, True]


def test_both_names_of_the_number_of_experts(tmp_path):
    old = _read(tmp_path, **MOE)
    new = _read(tmp_path, **MOE | {"num_experts": None, "num_local_experts": 6})
    assert old.mixture == new.mixture
    assert old.mixture is not None
    assert old.mixture.experts == 6
