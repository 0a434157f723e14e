"""Attention with latents in config.json: published models, what is refused, and the sizes and scale of transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from learner.config import ParallelConfig
from learner.config.adapters import lora_violations
from learner.config.architectures import head_dim, layers_with_experts, rotated_channels
from learner.config.latent import latent
from learner.config.lora import LoraConfig
from learner.config.memory import parameter_count
from learner.config.model_config import ModelError, read_config
from learner.config.model_keys import unknown_keys

YARN = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
# What the three have in common. As published, but for quantization_config.
_PUBLISHED: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"}, "aux_loss_alpha": 0.001, "ep_size": 1,
    "hidden_act": "silu", "initializer_range": 0.02, "kv_lora_rank": 512, "moe_layer_freq": 1, "norm_topk_prob": True,
    "pretraining_tp": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "scoring_func": "sigmoid", "seq_aux": True,
    "tie_word_embeddings": False, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "use_cache": True, "v_head_dim": 128,
}  # fmt: skip
MOONLIGHT: dict[str, Any] = _PUBLISHED | {
    "model_type": "deepseek_v3", "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 11264,
    "max_position_embeddings": 8192, "moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 64,
    "n_shared_experts": 2, "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27,
    "num_key_value_heads": 16, "num_nextn_predict_layers": 0, "q_lora_rank": None, "rms_norm_eps": 1e-05,
    "rope_theta": 50000.0, "routed_scaling_factor": 2.446, "topk_group": 1, "vocab_size": 163840,
}  # fmt: skip
KIMI: dict[str, Any] = _PUBLISHED | {
    "model_type": "kimi_k2", "first_k_dense_replace": 1, "hidden_size": 7168, "intermediate_size": 18432,
    "max_position_embeddings": 131072, "moe_intermediate_size": 2048, "n_group": 1, "n_routed_experts": 384,
    "n_shared_experts": 1, "num_attention_heads": 64, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_key_value_heads": 64, "num_nextn_predict_layers": 0, "q_lora_rank": 1536, "rms_norm_eps": 1e-06,
    "rope_theta": 50000.0, "rope_scaling": YARN | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0},
    "routed_scaling_factor": 2.827, "topk_group": 1, "vocab_size": 163840,
}  # fmt: skip
DEEPSEEK: dict[str, Any] = _PUBLISHED | {
    "model_type": "deepseek_v3", "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432,
    "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "n_group": 8, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "rms_norm_eps": 1e-06,
    "rope_theta": 10000, "rope_scaling": YARN, "routed_scaling_factor": 2.5, "topk_group": 4, "vocab_size": 129280,
}  # fmt: skip
FP8 = {"quantization_config": {"fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}}


def read(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    (directory / "config.json").write_text(json.dumps(config))
    return read_config(directory)


@pytest.mark.parametrize(
    ("config", "billions", "dense"),
    [(MOONLIGHT, 16, 1), (KIMI, 1026, 1), (DEEPSEEK, 671, 3)],
    ids=["16B", "1T", "671B"],
)
def test_published_models_are_read_and_have_as_many_parameters_as_is_said(
    tmp_path: Path, config: dict[str, Any], billions: int, dense: int
):
    found = read(tmp_path, config)
    assert round(parameter_count(found) / 1e9) == billions
    assert unknown_keys(found) == []
    assert layers_with_experts(found).index(True) == dense
    assert (head_dim(found), rotated_channels(found)) == (192, 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (FP8, ["quantization_config.quant_method = 'fp8'", "bfloat16"]),
        *(({name: None}, [f"{name} is missing"]) for name in ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim")),
        ({"kv_lora_rank": 0}, ["kv_lora_rank = 0", "positive integer"]),
        ({"q_lora_rank": 0}, ["q_lora_rank = 0", "or null"]),
        ({"qk_rope_head_dim": 63}, ["qk_rope_head_dim = 63", "even number"]),
        ({"rope_interleave": "yes"}, ["rope_interleave = 'yes'", "true or false"]),
        ({"num_key_value_heads": 4}, ["num_key_value_heads = 4", "keys of its own", "set it to 128"]),
        ({"head_dim": 192}, ["head_dim = 192", "it is 64"]),
        ({"qk_head_dim": 128}, ["qk_head_dim = 128", "it is 192"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_type = 'linear'", "supported: default, yarn"]),
        ({"moe_layer_freq": 2}, ["moe_layer_freq = 2", "only 1 is"]),
        ({"scoring_func": "softmax"}, ["scoring_func = 'softmax'"]),
        ({"topk_method": "greedy"}, ["topk_method = 'greedy'"]),
        ({"n_group": None}, ["n_group is missing"]),
        ({"topk_group": 9}, ["topk_group = 9 is above n_group = 8"]),
        ({"n_group": 7}, ["n_group = 7 does not divide n_routed_experts = 256"]),
        ({"n_group": 256, "topk_group": 8}, ["n_group = 256", "one expert to a group"]),
        ({"n_routed_experts": 16, "topk_group": 2}, ["num_experts_per_tok = 8", "the 4 experts of 2 groups"]),
        ({"topk_group": 2}, ["num_experts_per_tok = 8 with topk_group = 2", "two best experts", "8 // 2 best"]),
    ],
)  # fmt: skip
def test_what_the_learner_does_not_compute_is_refused_by_field_and_value(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
):
    with pytest.raises(ModelError) as refused:
        read(tmp_path, DEEPSEEK | changes)
    assert all(word in str(refused.value) for word in words)
    assert len(str(refused.value).splitlines()) == 1


def test_adapters_are_refused(tmp_path: Path):
    (fault,) = lora_violations(read(tmp_path, MOONLIGHT), LoraConfig(rank=8, alpha=16), ParallelConfig())
    assert "learner.lora.targets = [" in fault
    assert "has latents (MLA): remove [learner.lora]" in fault


def test_keys_of_latents_are_refused_where_nothing_reads_them(tmp_path: Path):
    llama = {
        "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"kv_lora_rank = 512 is not supported: .* latents"):
        read(tmp_path, llama | {"kv_lora_rank": 512})


@pytest.mark.parametrize(
    "rope", [None, YARN, YARN | {"mscale_all_dim": 0.5}, YARN | {"mscale": None, "mscale_all_dim": None}]
)
def test_the_scale_of_the_softmax_is_that_of_transformers(tmp_path: Path, rope: dict[str, Any] | None):
    small = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "n_routed_experts": 16,
        "vocab_size": 96,
        "intermediate_size": 32,
    }
    found = latent(read(tmp_path, DEEPSEEK | small | {"rope_scaling": rope, "moe_intermediate_size": 8}))
    path = tmp_path / "config.json"  # it asks before it runs the code that auto_map names
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if v is not None and k != "auto_map"})
    )
    attention = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).model.layers[0].self_attn
    assert found is not None
    assert math.isclose(found.scale, attention.scaling, rel_tol=1e-12)
    assert (found.key, found.rank, found.query_rank) == (attention.qk_head_dim, 512, 1536)
