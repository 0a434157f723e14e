"""Rotary angles are those of transformers, bit for bit, for every kind of scaling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from learner.batch.packing import Layout, pack
from learner.batch.types import Sequence
from learner.config.rope import ROPE_TYPES, computed_rope
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.model.rotary import Rotary

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
SETTINGS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    LLAMA3,
    YARN,
    YARN | {"attention_factor": 1.3},
    YARN | {"mscale": 1.0, "mscale_all_dim": 0.7},
    YARN | {"mscale": 0.5},
    YARN | {"beta_fast": 8, "beta_slow": 2, "truncate": False},
    YARN | {"beta_fast": 2, "beta_slow": 2, "truncate": False},
    YARN | {"beta_fast": None, "factor": 0.5},
]


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("settings", SETTINGS)
def test_angles_are_those_of_transformers(settings: dict[str, Any], theta: float):
    rope = {**settings, "rope_theta": theta}
    mine = Rotary.of(computed_rope({"rope_parameters": rope}), 64)
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=1024, rope_parameters=dict(rope))
    )
    if settings["rope_type"] == "llama3":  # theirs is in another order of operations
        assert torch.allclose(mine.inverse_frequencies, theirs.inv_freq, rtol=1e-6)
    else:
        assert torch.equal(mine.inverse_frequencies, theirs.inv_freq)
    assert mine.factor == theirs.attention_scaling


def test_every_kind_is_compared():
    assert {settings["rope_type"] for settings in SETTINGS} == ROPE_TYPES.keys()


def test_the_factor_multiplies_cosines_and_sines():
    frequencies = torch.tensor([1.0, 0.1])
    (batch,) = pack([Sequence(torch.ones(5, dtype=torch.int64), torch.arange(5) > 1, 1.0, 1.0)], Layout()).micro_batches
    plain, scaled = (
        PackedRow.of(batch, Rotary(frequencies, factor), torch.float32, torch.device("cpu")) for factor in (1.0, 1.5)
    )
    assert torch.equal(scaled.cos, plain.cos * 1.5)
    assert torch.equal(scaled.sin, plain.sin * 1.5)
