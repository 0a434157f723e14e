"""Reading config.json: values that are refused, and what transformers makes of the ones that may be absent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from learner.config.architectures import head_dim, rotated_channels
from learner.config.memory import parameter_count
from learner.config.model_config import ModelError, read_config
from learner.config.model_keys import unknown_keys
from learner.config.model_types import MODEL_TYPES, REFUSED_MODEL_TYPES
from learner.config.rope import rope_settings

BASE: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}  # fmt: skip
SIGMOID = {
    "n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
    "first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "n_group": 1, "topk_group": 1, "num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 4, "v_head_dim": 10,
}  # fmt: skip
GLM: dict[str, Any] = {"model_type": "glm4_moe", **SIGMOID, "head_dim": 16}
MOE = {"model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def read(directory: Path, **changes: Any) -> dict[str, Any]:
    (directory / "config.json").write_text(json.dumps({**BASE, **changes}))
    return read_config(directory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "mistral"}, ["only MistralForCausalLM is"]),
        (
            {"architectures": ["Qwen2ForSequenceClassification"]},
            ["Qwen2ForSequenceClassification", "only Qwen2ForCausalLM"],
        ),
        ({"architectures": ["Qwen2Model"]}, ["architectures = ['Qwen2Model']"]),
        ({"architectures": ["MistralForCausalLM"], "model_type": "llama"}, ["only LlamaForCausalLM is"]),
        ({"quantization_config": {"quant_method": "fp8"}}, ["quant_method = 'fp8'", "to bfloat16 first"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor = 0.5"]),
        (
            {"partial_rotary_factor": 0.5, "rope_scaling": LLAMA3, "model_type": "llama"},
            ["partial_rotary_factor = 0.5"],
        ),
        (
            {"rope_scaling": {**LLAMA3, "partial_rotary_factor": 0.5}, "model_type": "llama"},
            ["rope_scaling.partial_rotary_factor = 0.5"],
        ),
        *(
            (
                {"rope_scaling": {key: kind, "factor": 4.0}},
                [f"rope_type = '{kind}'", "supported: default, linear, llama3"],
            )
            for kind in ("dynamic", "longrope", "su", "mrope")
            for key in ("type", "rope_type")
        ),
        ({"rope_scaling": {"rope_type": "default", "type": "mrope"}}, ["rope_scaling.type = 'mrope'"]),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}}, ["mrope_section = [16, 24, 24]"]),
        ({"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default"}}, ["contradict each other"]),
        (
            {"rope_parameters": {"rope_theta": 5e5}},
            ["rope_theta = 1000000.0 and rope_parameters.rope_theta = 500000.0"],
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, ["differ by layer"]),
        ({"rope_scaling": "yarn"}, ["rope_scaling = 'yarn'"]),
        ({"rope_theta": "1e6"}, ["rope_theta = '1e6'", "positive number"]),
        ({"rope_scaling": {**LLAMA3, "factor": 0}}, ["rope_type llama3 needs factor"]),
        ({"rope_scaling": {"type": "linear"}}, ["rope_type linear needs factor, a positive number, which is None"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, ["rope_type yarn needs original_max_position_embeddings"]),
        ({"rope_scaling": {**YARN, "attn_factor": 2.0}}, ["rope_scaling.attn_factor = 2.0", "does not read it"]),
        ({"rope_scaling": {**LLAMA3, "beta_fast": 16}}, ["rope_scaling.beta_fast = 16", "rope_type llama3"]),
        ({"rope_scaling": {**YARN, "mscale": "1"}}, ["rope_scaling.mscale = '1'", "positive number"]),
        ({"rope_scaling": {**YARN, "truncate": None}}, ["rope_scaling.truncate = None", "true or false"]),
        ({"rope_scaling": {**YARN, "beta_fast": 1, "beta_slow": 32}}, ["beta_fast = 1 is below", "beta_slow = 32"]),
        ({"rope_scaling": YARN, "original_max_position_embeddings": 128}, ["= 128", "= 64 contradict each other"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["depend on the length of its sequence"]),
        ({"model_type": "mistral"}, ["sliding_window = 4096 (the default", "max_position_embeddings = 8192"]),
        (
            {"model_type": "mistral", "sliding_window": 8191},
            ["sliding_window = 8191 is below", "full causal attention"],
        ),
        ({"model_type": "mistral", "sliding_window": 0}, ["sliding_window = 0", "positive integer"]),
        ({"model_type": "ministral"}, ["sliding_window = 4096"]),
        (
            {"model_type": "ministral", "sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]},
            ["sliding_window = 64 is below", "full causal attention"],
        ),
        (
            {"model_type": "ministral", "sliding_window": None, "layer_types": ["chunked_attention"]},
            ["chunked_attention", "only full_attention"],
        ),
        ({"attention_bias": "yes", "model_type": "llama"}, ["attention_bias = 'yes'", "true or false"]),
        *(({"model_type": kind}, [f"model_type = '{kind}'", reason]) for kind, reason in REFUSED_MODEL_TYPES.items()),
        ({"head_dim": 15}, ["head_dim = 15", "even"]),
        ({"head_dim": 0}, ["head_dim = 0", "positive integer"]),
        ({"hidden_size": 66, "head_dim": None}, ["hidden_size = 66 is no multiple of num_attention_heads = 4"]),
        ({"num_key_value_heads": 0}, ["num_key_value_heads = 0", "positive integer"]),
        ({"num_hidden_layers": True}, ["num_hidden_layers = True", "positive integer"]),
        ({"num_attention_heads": "4"}, ["num_attention_heads = '4'", "positive integer"]),
        ({"tie_word_embeddings": "false"}, ["tie_word_embeddings = 'false'", "true or false"]),
        ({"rms_norm_eps": "1e-6"}, ["rms_norm_eps = '1e-6'", "number"]),
        ({**MOE, "decoder_sparse_step": 0}, ["decoder_sparse_step = 0", "positive integer"]),
        ({**MOE, "mlp_only_layers": 3}, ["mlp_only_layers = 3", "list"]),
        ({**MOE, "num_local_experts": 8}, ["num_experts = 6 and num_local_experts = 8 contradict"]),
        ({**MOE, "n_shared_experts": 1}, ["n_shared_experts = 1 is not supported"]),
        ({**MOE, "routed_scaling_factor": 2.5}, ["routed_scaling_factor = 2.5", "only 1.0 is"]),
        ({**MOE, "scoring_func": "sigmoid"}, ["scoring_func = 'sigmoid'", "only 'softmax' is"]),
        *(({**GLM, name: None}, [name]) for name in SIGMOID),
        ({**GLM, "norm_topk_prob": False}, ["norm_topk_prob = False", "sigmoid router", "only true is"]),
        ({**GLM, "num_experts_per_tok": 7}, ["num_experts_per_tok = 7 is above n_routed_experts = 6"]),
        ({**GLM, "first_k_dense_replace": 4}, ["first_k_dense_replace = 4 leave no layer with experts"]),
        ({**GLM, "first_k_dense_replace": -1}, ["first_k_dense_replace = -1", "number of first layers"]),
        ({**GLM, "routed_scaling_factor": 0}, ["routed_scaling_factor = 0", "positive number"]),
        ({**GLM, "n_group": 2}, ["n_group = 2 is not supported; only 1 is"]),
        ({**GLM, "scoring_func": "softmax"}, ["scoring_func = 'softmax'", "only 'sigmoid' is"]),
        ({**GLM, "topk_method": "greedy"}, ["topk_method = 'greedy'", "only 'noaux_tc' is"]),
        ({**GLM, "use_qk_norm": 1}, ["use_qk_norm = 1", "true or false"]),
        ({**GLM, "num_nextn_predict_layers": -1}, ["num_nextn_predict_layers = -1", "number of layers"]),
        ({**GLM, "partial_rotary_factor": 0.2}, ["turns 3 of head_dim = 16", "even number"]),
        ({**GLM, "partial_rotary_factor": 0.01}, ["turns 0 of head_dim = 16"]),
        ({**GLM, "partial_rotary_factor": 1.5}, ["partial_rotary_factor = 1.5", "at most 1"]),
        (
            {
                **GLM,
                "partial_rotary_factor": 0.5,
                "rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.25},
            },
            ["partial_rotary_factor = 0.5 and rope_parameters.partial_rotary_factor = 0.25 contradict"],
        ),
    ],
)
def test_a_model_that_the_learner_does_not_compute_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
):
    with pytest.raises(ModelError) as caught:
        read(tmp_path, **changes)
    assert all(word in str(caught.value) for word in [f"{tmp_path}/config.json: ", *words])


def test_every_fault_has_a_line_of_its_own(tmp_path: Path):
    with pytest.raises(ModelError) as caught:
        read(tmp_path, mlp_bias=True, hidden_act="gelu", vocab_size=None)
    assert len(str(caught.value).splitlines()) == 3


def test_a_file_that_is_no_object_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="expected an object"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"sliding_window": None}, {"sliding_window": 8192}, {"max_position_embeddings": 4096}]
)
@pytest.mark.parametrize("kind", ["mistral", "ministral"])
def test_a_window_that_holds_every_sequence_is_full_attention(tmp_path: Path, kind: str, changes: dict[str, Any]):
    assert read(tmp_path, model_type=kind, **changes)["model_type"] == kind


@pytest.mark.parametrize(
    ("given", "channels"),
    [({}, 8), ({"partial_rotary_factor": 0.25}, 4), ({"rope_parameters": {"partial_rotary_factor": 1.0}}, 16)],
)
def test_the_rotated_channels_are_those_of_transformers(tmp_path: Path, given: dict[str, Any], channels: int):
    rope = {"rope_parameters": {"rope_theta": 1e6, **given["rope_parameters"]}} if "rope_parameters" in given else {}
    mine = read(tmp_path, **{**GLM, **given, **rope})
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert 2 * len(theirs.model.rotary_emb.inv_freq) == rotated_channels(mine) == channels
    assert rotated_channels({**BASE, "partial_rotary_factor": 0.5}) == 16  # of a type that does not read it


def test_the_published_file_of_glm_4_5_air(tmp_path: Path):
    air = {
        "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "attention_bias": True, "attention_dropout": 0.0,
        "pad_token_id": 151329, "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "partial_rotary_factor": 0.5, "initializer_range": 0.02, "intermediate_size": 10944,
        "max_position_embeddings": 131072, "moe_intermediate_size": 1408, "norm_topk_prob": True, "num_attention_heads": 96,
        "n_group": 1, "topk_group": 1, "n_routed_experts": 128, "n_shared_experts": 1, "routed_scaling_factor": 1.0,
        "num_experts_per_tok": 8, "first_k_dense_replace": 1, "num_hidden_layers": 46, "num_key_value_heads": 8,
        "num_nextn_predict_layers": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 1000000,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.54.0", "use_cache": True,
        "use_qk_norm": False, "vocab_size": 151552,
    }  # fmt: skip
    found = read(tmp_path, **air)
    assert unknown_keys(found) == []
    assert round(parameter_count(found) / 1e9, 1) == 106.9
    assert rotated_channels(found) == 64


def test_layers_without_a_window(tmp_path: Path):
    read(tmp_path, model_type="ministral", sliding_window=8, layer_types=["full_attention"] * 4)
    with pytest.raises(ModelError, match="sliding_window = 8"):  # transformers' Mistral does not read layer_types
        read(tmp_path, model_type="mistral", sliding_window=8, layer_types=["full_attention"] * 4)


def test_a_type_that_is_refused_by_name_is_one_of_transformers():
    assert REFUSED_MODEL_TYPES.keys() <= set(CONFIG_MAPPING)
    assert not REFUSED_MODEL_TYPES.keys() & MODEL_TYPES.keys()


@pytest.mark.parametrize("kind", [kind for kind, known in MODEL_TYPES.items() if known.alias_of is None])
def test_a_head_is_as_wide_as_in_transformers(tmp_path: Path, kind: str):
    known: dict[str, Any] = {"head_dim": 32} if kind == "ministral" else {}  # transformers builds no model without it
    known = LATENT if MODEL_TYPES[kind].attention == "latent" else known
    router = MODEL_TYPES[kind].router
    experts = SIGMOID if router is not None and router.corrected else MOE
    mine = read(tmp_path, **{**experts, "model_type": kind, "max_position_embeddings": 512, **known})
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert theirs.model.layers[0].self_attn.q_proj.out_features == 4 * head_dim(mine)
    assert type(theirs).__name__ == MODEL_TYPES[kind].class_name
    assert head_dim(read(tmp_path, model_type="llama", head_dim=None)) == 16


def test_null_is_hidden_size_over_heads():
    for kind in (kind for kind, known in MODEL_TYPES.items() if known.attention == "grouped"):
        assert head_dim({**BASE, "model_type": kind, "head_dim": None}) == 16
        assert head_dim({**BASE, "model_type": kind, "head_dim": 32}) == 32


@pytest.mark.parametrize(
    "rope",
    [
        {},
        {"rope_theta": None},
        {"rope_scaling": None, "rope_parameters": None},
        {"rope_scaling": LLAMA3},
        {"rope_theta": None, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
    ],
)
def test_rotary_settings_are_those_of_transformers(tmp_path: Path, rope: dict[str, Any]):
    mine = rope_settings(read(tmp_path, model_type="llama", **rope))
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    assert mine == AutoConfig.from_pretrained(tmp_path).rope_parameters


def test_it_needs_no_torch():
    code = "import sys, learner.config.model_config, learner.config.model_weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
