"""A model's fingerprint: what changes it, what does not, and how a difference is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from learner.checkpoint.fingerprint import Fingerprint, FingerprintError, fingerprint, require_same
from learner.config import LoraConfig
from learner.config.latent import Latent
from learner.megatron.model.architecture import Architecture, Mixture
from runtime.errors import MISCONFIGURED

QWEN2: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}  # fmt: skip
MOE: dict[str, Any] = QWEN2 | {
    "model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
    "norm_topk_prob": True,
}  # fmt: skip
GLM: dict[str, Any] = QWEN2 | {
    "model_type": "glm4_moe", "n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 48, "first_k_dense_replace": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": True,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
DEEPSEEK: dict[str, Any] = QWEN2 | {
    "model_type": "deepseek_v3", "n_routed_experts": 6, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1, "routed_scaling_factor": 2.5, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
    "norm_topk_prob": True, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 4, "v_head_dim": 10,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CHECKPOINT = Path("/runs/a/checkpoints/step_00000050_e0003")


def of(directory: Path, config: dict[str, Any], tokenizer: str | None = "{}") -> Fingerprint:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        (directory / "tokenizer.json").write_text(tokenizer)
    return fingerprint(asdict(Architecture.read(directory)), directory)


def compare(saved: Fingerprint, present: Fingerprint) -> None:
    require_same(CHECKPOINT, saved, present, Path("/models/other"), Path("/runs/a/weights"))


@pytest.mark.parametrize(
    ("base", "changes", "name"),
    [
        (QWEN2, {"model_type": "llama"}, "model_type"),
        (QWEN2, {"model_type": "qwen3"}, "model_type"),
        (QWEN2, {"vocab_size": 100}, "vocab_size"),
        (QWEN2, {"hidden_size": 128}, "hidden_size"),
        (QWEN2, {"intermediate_size": 176}, "intermediate_size"),
        (QWEN2, {"num_hidden_layers": 2}, "num_hidden_layers"),
        (QWEN2, {"num_attention_heads": 8}, "num_attention_heads"),
        (QWEN2, {"num_key_value_heads": 4}, "num_key_value_heads"),
        (QWEN2, {"head_dim": 32}, "head_dim"),
        (QWEN2, {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        (QWEN2, {"tie_word_embeddings": True}, "tie_word_embeddings"),
        (QWEN2, {"rope_theta": 1e4}, "rope_theta"),
        (QWEN2, {"rope_scaling": LLAMA3}, "rope_type"),
        (QWEN2 | {"rope_scaling": LLAMA3}, {"rope_scaling": LLAMA3 | {"factor": 32.0}}, "factor"),
        (QWEN2 | {"rope_scaling": YARN}, {"rope_scaling": YARN | {"attention_factor": 1.5}}, "attention_factor"),
        (QWEN2 | {"rope_scaling": YARN}, {"rope_scaling": YARN | {"beta_fast": 16}}, "beta_fast"),
        (QWEN2 | {"model_type": "llama"}, {"model_type": "llama", "attention_bias": True}, "attention_bias"),
        (MOE, {"num_experts": 8}, "num_experts"),
        (MOE, {"num_experts_per_tok": 3}, "num_experts_per_tok"),
        (MOE, {"moe_intermediate_size": 64}, "moe_intermediate_size"),
        (MOE, {"norm_topk_prob": False}, "norm_topk_prob"),
        (MOE, {"mlp_only_layers": [0]}, "layers with experts"),
        (GLM, {"use_qk_norm": True}, "use_qk_norm"),
        (GLM, {"partial_rotary_factor": 0.25}, "rotated channels of a head"),
        (GLM, {"routed_scaling_factor": 2.5}, "routed_scaling_factor"),
        (GLM, {"n_shared_experts": 2}, "n_shared_experts * moe_intermediate_size"),
        (DEEPSEEK, {"q_lora_rank": None}, "q_lora_rank"),
        (DEEPSEEK, {"rope_interleave": False}, "rope_interleave"),
        (DEEPSEEK, {"n_group": 3, "topk_group": 1}, "n_group"),
        (
            DEEPSEEK | {"rope_scaling": YARN},
            {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
            "scale of the softmax",
        ),
    ],
)
def test_another_network_is_refused_by_field_and_values(
    tmp_path: Path, base: dict[str, Any], changes: dict[str, Any], name: str
):
    saved, present = of(tmp_path / "a", base), of(tmp_path / "b", base | changes)
    with pytest.raises(FingerprintError) as refused:
        compare(saved, present)
    text = str(refused.value)
    assert refused.value.exit_status == MISCONFIGURED
    assert f"{name} is {present[name]!r}, the checkpoint's is {saved[name]!r}" in text
    for word in ("model = /models/other", str(CHECKPOINT), "run.name", "model.path", "/runs/a/weights"):
        assert word in text


def test_other_adapters_and_another_base_are_refused_with_both_values(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN2))
    architecture, lora = asdict(Architecture.read(tmp_path)), LoraConfig(rank=8, alpha=16)
    saved = fingerprint(architecture, tmp_path, lora, "blake3:one")
    compare(saved, fingerprint(architecture, tmp_path, lora, "blake3:one"))
    with pytest.raises(FingerprintError, match="weights is 'blake3:other', the checkpoint's is 'blake3:one'"):
        compare(saved, fingerprint(architecture, tmp_path, lora, "blake3:other"))
    for other in (None, LoraConfig(rank=8, alpha=8), LoraConfig(rank=8, alpha=16, targets=("q_proj",))):
        with pytest.raises(FingerprintError, match=r"learner\.lora is .*, the checkpoint's is .*'alpha': 16\.0"):
            compare(saved, fingerprint(architecture, tmp_path, other, "blake3:one"))
    with pytest.raises(FingerprintError, match=r"learner\.lora is .*'rank': 8.*, the checkpoint's is None"):
        compare(fingerprint(architecture, tmp_path), saved)


def test_another_tokenizer_of_one_vocabulary_size_is_refused(tmp_path: Path):
    saved, present = of(tmp_path / "a", QWEN2, '{"model": 1}'), of(tmp_path / "b", QWEN2, '{"model": 2}')
    with pytest.raises(FingerprintError, match=rf"tokenizer\.json is '{present['tokenizer.json']}'"):
        compare(saved, present)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 16},
        {"tie_word_embeddings": False},
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_scaling": {"type": "default"}},
        {"max_position_embeddings": 4096},
        {"transformers_version": "5.0.0", "torch_dtype": "float32", "_name_or_path": "elsewhere"},
    ],
)
def test_another_spelling_of_one_network_is_no_difference(tmp_path: Path, changes: dict[str, Any]):
    compare(
        of(tmp_path / "a", QWEN2), of(tmp_path / "b", {k: v for k, v in (QWEN2 | changes).items() if v is not None})
    )


def test_a_fingerprint_is_the_one_that_a_checkpoint_gives_back(tmp_path: Path):
    for config in (QWEN2, MOE, QWEN2 | {"rope_scaling": LLAMA3}):
        present = of(tmp_path / "a", config)
        assert json.loads(json.dumps(present)) == present


def test_a_tokenizer_is_compared_only_where_both_are_known(tmp_path: Path):
    with_one, without = of(tmp_path / "a", QWEN2), of(tmp_path / "b", QWEN2, tokenizer=None)
    compare(with_one, without)
    compare(without, with_one)


def test_every_property_of_an_architecture_is_in_its_fingerprint_or_left_out_on_purpose(tmp_path: Path):
    free = {"path", "config", "max_positions"}  # where it was read from, and a limit without parameters
    moe = asdict(Architecture.read(_written(tmp_path, MOE)))
    before = fingerprint(moe, tmp_path)
    latent = asdict(Architecture.read(_written(tmp_path, DEEPSEEK)))["latent"]
    other = {"rope": {"rope_theta": 1.0}, "latent": latent}
    for field in fields(Architecture):
        changed = moe | {field.name: other.get(field.name)}
        assert (fingerprint(changed, tmp_path) == before) == (field.name in free), field.name
    for field in fields(Mixture):
        changed = moe | {"mixture": moe["mixture"] | {field.name: None}}
        assert fingerprint(changed, tmp_path) != before, field.name
    for field in fields(Latent):
        changed, same = (moe | {"latent": latent | more} for more in ({field.name: None}, {}))
        assert fingerprint(changed, tmp_path) != fingerprint(same, tmp_path), field.name


def _written(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory
