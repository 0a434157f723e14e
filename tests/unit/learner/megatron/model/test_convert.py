"""Reading Hugging Face directories: what is accepted, what is refused and how, and the layouts of fused matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from learner.config import ParallelConfig
from learner.megatron.model.architecture import Architecture, ModelError
from learner.megatron.model.convert import Kind, _join, _split
from learner.megatron.model.hf_weights import Weights

BASE: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}  # fmt: skip
MOE: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
    "norm_topk_prob": True,
}  # fmt: skip
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def _read(directory: Path, **changes: Any) -> Architecture:
    values = {name: value for name, value in (BASE | changes).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(values))
    return Architecture.read(directory)


def test_old_and_new_rope_layouts_agree(tmp_path):
    old = _read(tmp_path)
    new = _read(tmp_path, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert old.rope["rope_theta"] == new.rope["rope_theta"] == 1e6
    assert torch.equal(old.inverse_frequencies(), new.inverse_frequencies())
    assert old.inverse_frequencies()[:2].tolist() == pytest.approx([1.0, 1e6 ** (-1 / 8)])  # head_dim 64 / 4


@pytest.mark.parametrize("layout", ["old", "new"])
def test_llama3_rope_equals_transformers(tmp_path, layout):
    if layout == "old":
        mine = _read(tmp_path, model_type="llama", rope_scaling={"rope_type": "llama3", **LLAMA3})
    else:
        rope = {"rope_type": "llama3", "rope_theta": 1e6, **LLAMA3}
        mine = _read(tmp_path, model_type="llama", rope_theta=None, rope_parameters=rope)
    theirs = LlamaConfig(
        hidden_size=64, num_attention_heads=4, rope_parameters={"rope_type": "llama3", "rope_theta": 1e6, **LLAMA3}
    )
    assert torch.allclose(mine.inverse_frequencies(), LlamaRotaryEmbedding(theirs).inv_freq, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, ["model_type = 'gpt2'", "llama, qwen2, qwen3"]),
        ({"model_type": "mixtral", "num_local_experts": 8}, ["model_type = 'mixtral'", "qwen3, qwen3_moe"]),
        ({**MOE, "num_experts": None}, ["num_local_experts is missing"]),
        ({**MOE, "num_experts_per_tok": 7}, ["num_experts_per_tok = 7 is above num_experts = 6"]),
        ({**MOE, "num_experts_per_tok": 1}, ["norm_topk_prob = true", "num_experts_per_tok = 1"]),
        ({**MOE, "moe_intermediate_size": None}, ["moe_intermediate_size is missing"]),
        ({**MOE, "decoder_sparse_step": 5}, ["decoder_sparse_step = 5", "no layer with experts"]),
        ({"num_hidden_layers": None}, ["num_hidden_layers is missing"]),
        ({"vocab_size": 0}, ["vocab_size = 0", "positive integer"]),
        ({"attention_bias": True}, ["attention_bias = True"]),
        ({"hidden_act": "gelu"}, ["hidden_act = 'gelu'", "'silu'"]),
        ({"layer_types": ["sliding_attention"]}, ["sliding_attention", "full_attention"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, ["rope_type = 'yarn'", "default, llama3"]),
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
        ({}, {"tensor": 4}, r"num_key_value_heads = 2 is not divisible by parallel\.tensor = 4: .* one of \[1, 2\]"),
        ({}, {"pipeline": 3}, r"num_hidden_layers = 4 is not divisible by parallel\.pipeline = 3: .* one of \[1, 2\]"),
        (
            {},
            {"pipeline": 2, "virtual_pipeline": 3},
            r"/ parallel\.pipeline = 2 is not divisible by parallel\.virtual_pipeline = 3: .* one of \[1, 2\]",
        ),
        ({"vocab_size": 97}, {"tensor": 2}, r"vocab_size = 97 is not divisible by parallel\.tensor = 2"),
        (
            {},
            {"expert": 2},
            r"model_type = 'qwen3' has no experts.* parallel\.expert = 2 .*: set parallel\.expert to 1",
        ),
        (MOE, {"expert": 4}, r"num_experts = 6 is not divisible by parallel\.expert = 4: .* one of \[1, 2, 3\]"),
        (MOE, {"tensor": 2, "expert": 2}, r"under parallel\.tensor = 2 needs parallel\.sequence = true"),
        (
            {**MOE, "mlp_only_layers": [2, 3]},
            {"pipeline": 2},
            r"layers 2 to 3, one of the 2 pieces .* are dense \(mlp_only_layers.*lower parallel\.pipeline",
        ),
        (
            {**MOE, "decoder_sparse_step": 2},
            {"pipeline": 2, "virtual_pipeline": 2},
            r"layers 0 to 0, one of the 4 pieces .* are dense",
        ),
    ],
)
def test_layouts_that_do_not_fit_are_refused(tmp_path, changes, parallel, message):
    with pytest.raises(ModelError, match=message):
        _read(tmp_path, **changes).check_layout(ParallelConfig(**parallel))


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


def test_a_mixture_is_not_bound_by_the_size_of_a_dense_layer_that_it_has_not(tmp_path):
    """Experts are never cut; only dense layers are."""
    layout = ParallelConfig(tensor=2, sequence=True)
    _read(tmp_path, **MOE | {"intermediate_size": 161}).check_layout(layout)
    with pytest.raises(ModelError, match="intermediate_size = 161 is not divisible"):
        _read(tmp_path, **MOE | {"intermediate_size": 161, "mlp_only_layers": [0]}).check_layout(layout)


def test_weights_of_one_file_and_of_several_read_alike(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    one, several = tmp_path / "one", tmp_path / "several"
    one.mkdir()
    several.mkdir()
    save_file(tensors, one / "model.safetensors")
    for name, tensor in tensors.items():
        save_file({name: tensor}, several / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in tensors}}
    (several / "model.safetensors.index.json").write_text(json.dumps(index))
    for directory in (one, several):
        for name, tensor in tensors.items():
            assert torch.equal(Weights(directory).read(name, tuple(tensor.shape)), tensor)


def test_unusable_weights_are_refused(tmp_path):
    with pytest.raises(ModelError, match="convert the weights to safetensors"):
        Weights(tmp_path)
    save_file({"a": torch.zeros(3, 2)}, tmp_path / "model.safetensors")
    weights = Weights(tmp_path)
    with pytest.raises(ModelError, match="tensor b is missing"):
        weights.read("b", (1,))
    with pytest.raises(ModelError, match=r"tensor a has shape \[3, 2\].*asks for \[2, 3\]"):
        weights.read("a", (2, 3))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError, match="cannot be read"):
        Weights(tmp_path)


@given(tensor_size=st.sampled_from([1, 2]), bias=st.booleans(), seed=st.integers(0, 99))
def test_fused_matrices_split_as_they_were_joined(tmp_path_factory, tensor_size, bias, seed):
    architecture = _read(tmp_path_factory.getbasetemp())
    generator = torch.Generator().manual_seed(seed)
    rest = () if bias else (5,)
    qkv = [torch.randn(n * architecture.head_dim, *rest, generator=generator) for n in (4, 2, 2)]
    glu = [torch.randn(160, *rest, generator=generator) for _ in range(2)]
    cases: list[tuple[Kind, list[torch.Tensor]]] = [("qkv", qkv), ("glu", glu)]
    for kind, parts in cases:
        back = _split(kind, _join(kind, parts, architecture, tensor_size), architecture, tensor_size)
        assert all(torch.equal(a, b) for a, b in zip(back, parts, strict=True))


def test_each_rank_gets_its_own_heads(tmp_path):
    """Two ranks, four query heads in two groups: rank 0 has queries 0 and 1 with key and value 0, rank 1 the rest."""
    architecture = _read(tmp_path)
    width = architecture.head_dim
    q, k, v = (torch.arange(n).repeat_interleave(width) + start for n, start in ((4, 0), (2, 10), (2, 20)))
    first, second = _join("qkv", [q, k, v], architecture, 2).chunk(2)
    assert first.unique_consecutive().tolist() == [0, 1, 10, 20]
    assert second.unique_consecutive().tolist() == [2, 3, 11, 21]
    gate, up = torch.arange(4), torch.arange(4) + 10
    first, second = _join("glu", [gate, up], architecture, 2).chunk(2)
    assert first.tolist() == [0, 1, 10, 11]
    assert second.tolist() == [2, 3, 12, 13]
