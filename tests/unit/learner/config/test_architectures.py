"""The rules by which a model divides over ranks: the learner, the launcher and doctor share them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from learner.config import ParallelConfig
from learner.config.architectures import (
    balance_faults,
    chunk_layers,
    expert_count,
    layers_with_experts,
    layout_violations,
    vocabulary_rows,
)

DENSE: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 96, "intermediate_size": 160, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
WIDE = DENSE | {"num_attention_heads": 8, "num_key_value_heads": 8}
MOE: dict[str, Any] = DENSE | {"model_type": "qwen3_moe", "num_experts": 6}


def violations(config: dict[str, Any], **parallel: Any) -> list[tuple[str, int, str]]:
    found = layout_violations(config, ParallelConfig(**parallel))
    return [(violation.key, violation.value, violation.text) for violation in found]


@pytest.mark.parametrize(
    ("config", "parallel"),
    [
        (DENSE, {"tensor": 2, "sequence": True, "pipeline": 4, "context": 3}),
        (DENSE, {"pipeline": 2, "virtual_pipeline": 2}),
        (DENSE | {"vocab_size": 97}, {"tensor": 2}),
        (DENSE, {"pipeline": 3}),
        (DENSE, {"tensor": 4}),
        (DENSE | {"num_attention_heads": 12, "head_dim": 96, "intermediate_size": 96}, {"tensor": 6}),
        (DENSE | {"num_hidden_layers": 7}, {"pipeline": 2, "virtual_pipeline": 3}),
        (MOE, {"tensor": 2, "sequence": True, "expert": 3, "pipeline": 2}),
        (MOE | {"mlp_only_layers": [0, 2]}, {"pipeline": 2}),
    ],
)
def test_a_layout_that_fits(config, parallel):
    assert violations(config, **parallel) == []


@pytest.mark.parametrize(
    ("changes", "parallel", "key", "words"),
    [
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, {"tensor": 2}, "tensor", "num_attention_heads = 3"),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 96},
            {"tensor": 6},
            "tensor",
            "tensor = 6 neither divides the model's num_key_value_heads = 4 nor is a multiple of it: set it to one of "
            "[1, 2, 4]",
        ),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 96},
            {"tensor": 6},
            "tensor",
            "tensor = 6 is above the model's num_key_value_heads = 2, and does not divide the joint width of queries, "
            "keys and values, (12 + 2 * 2) heads * 64 channels = 1024: set it to one of [1, 2, 4]",
        ),
        (WIDE | {"vocab_size": 9}, {"tensor": 4}, "tensor", "vocab_size = 9 token ids: set it to one of [1, 2, 3]"),
        ({"intermediate_size": 161}, {"tensor": 2}, "tensor", "intermediate_size = 161"),
        (
            {},
            {"pipeline": 5},
            "pipeline",
            "num_hidden_layers = 4, as pipeline * virtual_pipeline = 5: set it to 4 or less",
        ),
        (
            {},
            {"pipeline": 2, "virtual_pipeline": 3},
            "virtual_pipeline",
            "num_hidden_layers = 4, as pipeline * virtual_pipeline = 6: set it to 2 or less",
        ),
        ({**MOE, "mlp_only_layers": [3]}, {"pipeline": 3}, "pipeline", "3 chunks of the model, of which layers 3 to 3"),
        ({}, {"expert": 2}, "expert", "the model is dense and has no experts: set it to 1"),
        (MOE, {"expert": 4}, "expert", "num_experts = 6: set it to one of [1, 2, 3]"),
        (MOE, {"tensor": 2, "expert": 2}, "tensor", "needs learner.parallel.sequence = true"),
        (
            {**MOE, "mlp_only_layers": [2, 3]},
            {"pipeline": 2},
            "pipeline",
            "2 chunks of the model, of which layers 2 to 3",
        ),
        (
            {**MOE, "decoder_sparse_step": 2},
            {"pipeline": 2, "virtual_pipeline": 2},
            "virtual_pipeline",
            "4 chunks of the model, of which layers 0 to 0 are dense",
        ),
    ],
)
def test_a_layout_that_does_not_fit(changes, parallel, key, words):
    found = violations(DENSE | changes, **parallel)
    assert [name for name, _, _ in found] == [key]
    assert found[0][1] == parallel[key]
    assert f"learner.parallel.{key} = {parallel[key]}" in found[0][2]
    assert words in found[0][2]


def test_every_violation_is_reported():
    assert [key for key, _, _ in violations(DENSE, tensor=3, pipeline=5)] == ["tensor"] * 2 + ["pipeline"]


@pytest.mark.parametrize(
    ("layers", "parallel", "sizes"),
    [
        (94, {"pipeline": 4}, [23, 24, 24, 23]),
        (94, {"pipeline": 8}, [11, 12, 12, 12, 12, 12, 12, 11]),
        (7, {"pipeline": 4}, [2, 2, 2, 1]),
        (5, {"pipeline": 2}, [3, 2]),
        (5, {"pipeline": 2, "virtual_pipeline": 2}, [1, 2, 1, 1]),
        (4, {"pipeline": 2}, [2, 2]),
        (4, {}, [4]),
    ],
)
def test_the_first_and_the_last_chunk_have_the_fewest_layers(layers, parallel, sizes):
    chunks = chunk_layers(layers, ParallelConfig(**parallel))
    assert [len(own) for own in chunks] == sizes
    assert [layer for own in chunks for layer in own] == list(range(layers))


def test_a_vocabulary_is_padded_by_less_than_a_rank_has():
    assert vocabulary_rows(151_669, 8) == 151_672
    assert vocabulary_rows(96, 8) == 96
    assert vocabulary_rows(97, 1) == 97


def test_experts_are_never_split_and_dense_layers_are():
    odd = MOE | {"intermediate_size": 161}
    assert violations(odd, tensor=2, sequence=True) == []
    (violation,) = violations(odd | {"mlp_only_layers": [0]}, tensor=2, sequence=True)
    assert "intermediate_size = 161" in violation[2]


def test_experts_that_every_token_is_sent_to_are_cut_like_dense_layers():
    glm = DENSE | {
        "model_type": "glm4_moe", "n_routed_experts": 6, "n_shared_experts": 1, "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
    }  # fmt: skip
    layout = {"tensor": 2, "sequence": True}
    assert violations(glm, expert=2, pipeline=4)[0][0] == "pipeline"  # the first chunk is dense
    assert violations(glm, expert=2, pipeline=2, **layout) == []
    (violation,) = violations(glm | {"moe_intermediate_size": 25}, **layout)
    assert violation[:2] == ("tensor", 2)
    assert "width of the shared experts = 25" in violation[2]
    (violation,) = violations(glm, expert=4)
    assert "n_routed_experts = 6" in violation[2]


def test_only_experts_of_sigmoid_routers_are_balanced():
    glm = {"model_type": "glm4_moe"}
    assert list(balance_faults(glm, 0.001)) == list(balance_faults(MOE, 0.0)) == list(balance_faults(DENSE, 0.0)) == []
    (softmax,), (dense,) = balance_faults(MOE, 0.001), balance_faults(DENSE, 0.001)
    assert "learner.optimizer.expert_bias_rate = 0.001: model_type = 'qwen3_moe' has softmax routers" in softmax
    assert "model_type = 'qwen3' is dense" in dense


def test_both_names_of_the_number_of_experts():
    assert expert_count({"num_experts": 6}) == expert_count({"num_experts": None, "num_local_experts": 6}) == 6
    assert expert_count({}) == expert_count(DENSE | {"num_experts": 6}) == 0


def test_which_layers_have_experts():
    assert layers_with_experts(DENSE) == (False,) * 4
    glm = {"model_type": "glm4_moe", "num_hidden_layers": 4, "n_routed_experts": 6, "decoder_sparse_step": 2}
    assert layers_with_experts(glm | {"first_k_dense_replace": 3}) == (False, False, False, True)
    assert layers_with_experts(glm | {"first_k_dense_replace": 0}) == (True,) * 4
    assert layers_with_experts(MOE | {"decoder_sparse_step": 2, "mlp_only_layers": [1]}) == (False, False, False, True)


def test_a_configuration_of_something_else():
    with pytest.raises(KeyError, match="num_attention_heads"):
        violations({})


def test_it_needs_no_torch():
    code = "import sys, learner.config.architectures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
