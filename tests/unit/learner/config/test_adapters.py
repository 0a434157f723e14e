"""Names and shapes of adapters, and models and layouts that cannot have them."""

from __future__ import annotations

from typing import Any

import pytest

from learner.config import LoraConfig, ParallelConfig
from learner.config.adapters import adapter_shapes, lora_violations

DENSE: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": True,
}  # fmt: skip
MIXTURE = DENSE | {
    "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 4,
}  # fmt: skip
LATENT = DENSE | {
    "model_type": "deepseek_v3", "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 4,
    "v_head_dim": 10, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 4,
}  # fmt: skip
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def refused(config: dict[str, Any], lora: LoraConfig | None, **parallel: Any) -> list[str]:
    return list(lora_violations(config, lora, ParallelConfig(**parallel)))


def test_names_and_shapes_are_those_of_peft():
    found = adapter_shapes(DENSE, LoraConfig(rank=3, alpha=3, targets=("k_proj", "o_proj", "up_proj", "down_proj")))
    first = {name: shape for name, shape in found.items() if ".layers.0." in name}
    prefix = "base_model.model.model.layers.0."
    assert first == {
        f"{prefix}self_attn.k_proj.lora_A.weight": (3, 8),
        f"{prefix}self_attn.k_proj.lora_B.weight": (12, 3),
        f"{prefix}self_attn.o_proj.lora_A.weight": (3, 24),
        f"{prefix}self_attn.o_proj.lora_B.weight": (8, 3),
        f"{prefix}mlp.up_proj.lora_A.weight": (3, 8),
        f"{prefix}mlp.up_proj.lora_B.weight": (24, 3),
        f"{prefix}mlp.down_proj.lora_A.weight": (3, 24),
        f"{prefix}mlp.down_proj.lora_B.weight": (8, 3),
    }
    assert len(found) == 2 * len(first)


def test_a_dense_model_can_have_all_and_a_mixture_those_of_the_attention():
    assert refused(DENSE, LoraConfig(rank=1, alpha=1), tensor=2) == []
    assert refused(MIXTURE, LoraConfig(rank=1, alpha=1, targets=ATTENTION), expert=4) == []
    assert refused(MIXTURE, None) == []
    (text,) = refused(MIXTURE, LoraConfig(rank=1, alpha=1, targets=("q_proj", "gate_proj", "down_proj")))
    assert "learner.lora.targets contains gate_proj, down_proj" in text
    assert "set it to ['q_proj']" in text
    (text,) = refused(MIXTURE, LoraConfig(rank=1, alpha=1, targets=("up_proj",)))
    assert f"set it to {[*ATTENTION]}" in text


def test_attention_with_latents_has_none():
    (text,) = refused(LATENT, LoraConfig(rank=1, alpha=1, targets=("q_proj",)))
    assert "learner.lora" in text
    assert "latents (MLA)" in text


@pytest.mark.parametrize(
    ("targets", "tensor", "count"), [(("q_proj",), 4, 0), (("o_proj", "up_proj"), 8, 0), (("q_proj", "o_proj"), 8, 1)]
)
def test_key_value_heads_that_ranks_cannot_divide_are_refused(targets: Any, tensor: int, count: int):
    found = refused(DENSE | {"num_attention_heads": 8}, LoraConfig(rank=1, alpha=1, targets=targets), tensor=tensor)
    assert len(found) == count, found
    if found:
        assert "contains q_proj: the 2 heads of keys and values, of 6 channels each" in found[0]
        assert "learner.parallel.tensor = 8" in found[0]
