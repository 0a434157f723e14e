"""The table of config.json's keys: complete for the supported classes of transformers, and it refuses what it should."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, PretrainedConfig

from learner.config.model_keys import FIXED, FIXED_BY_TYPE, HARMLESS, KNOWN, OFF, READ, refused_keys, unknown_keys
from learner.config.model_types import MODEL_TYPES


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_key_of_a_supported_class_is_in_the_table_and_its_default_is_accepted(kind: str):
    config_class: type[PretrainedConfig] = CONFIG_MAPPING[MODEL_TYPES[kind].alias_of or kind]
    defaults = config_class().to_dict()
    fields = {field.name for field in dataclasses.fields(config_class)}
    assert unknown_keys(dict.fromkeys({*fields, *defaults, *config_class.attribute_map})) == []
    assert list(refused_keys(defaults | {"model_type": kind})) == []


def test_no_key_has_two_rules():
    tables = [READ, HARMLESS, set(OFF), set(FIXED), set(FIXED_BY_TYPE)]
    assert sum(len(table) for table in tables) == len(KNOWN)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"quantization_config": {"quant_method": "fp8"}},
            ["quantization_config.quant_method = 'fp8'", "to bfloat16 first"],
        ),
        ({"quantization_config": {"bits": 4}}, ["quantization_config = {'bits': 4}", "to bfloat16 first"]),
        ({"dual_chunk_attention_config": {"chunk_size": 8}}, ["dual_chunk_attention_config", "full causal attention"]),
        ({"use_sliding_window": True, "sliding_window": 8}, ["use_sliding_window = True"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor = 0.5", "only 1.0 is"]),
        ({"num_nextn_predict_layers": 1}, ["num_nextn_predict_layers = 1"]),
        ({"model_type": "mistral", "attention_bias": True}, ["attention_bias = True", "for this model_type"]),
        ({"mlp_bias": True}, ["mlp_bias = True"]),
        ({"hidden_act": "gelu"}, ["hidden_act = 'gelu'", "only 'silu' is"]),
        ({"is_causal": False}, ["is_causal = False"]),
        ({"auto_map": {"AutoModelForCausalLM": "own.Own"}}, ["auto_map", "code of its own"]),
        ({"model_type": "qwen3_moe", "use_qk_norm": False}, ["use_qk_norm = False", "only True is"]),
        ({"model_type": "qwen2", "qkv_bias": False}, ["qkv_bias = False"]),
        ({"model_type": "llama", "qkv_bias": True}, ["qkv_bias = True"]),
    ],
)
def test_what_the_learner_does_not_compute_is_refused(config: dict[str, Any], words: list[str]):
    (fault,) = refused_keys({"model_type": "qwen2", **config})
    assert all(word in fault for word in words)


def test_values_that_change_nothing_are_accepted():
    off = dict.fromkeys(OFF, None) | {"quantization_config": {}, "num_nextn_predict_layers": 0, "mlp_bias": False}
    coder = {"model_type": "qwen3_moe", "qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0}
    for config in (off, dict.fromkeys(FIXED), {"partial_rotary_factor": 1}, coder):
        assert list(refused_keys({"model_type": "llama", **config})) == []


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_a_key_that_only_some_types_read(kind: str):
    assert list(refused_keys({"model_type": kind, "attention_bias": True})) == []


def test_keys_that_nobody_has_looked_at():
    assert unknown_keys({"hidden_size": 8, "warp_factor": 9, "a_new_key": None}) == ["a_new_key", "warp_factor"]
