"""Model directories that are incomplete, damaged, of an unknown kind, or do not fit the layout."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from learner.cli.doctor import model
from learner.config.model_weights import stored_tensors
from tests.tools.doctor_site import Site, bad, examined_run


def config(site: Site, **changes: Any) -> None:
    path = site.model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_model_directory_that_is_sound(site: Site):
    assert bad(model.model(site.read("learner"))) == []
    tensors = stored_tensors(site.model)
    assert sum(tensor.count for tensor in tensors.values()) == model.parameters(site.read("learner"))


def test_a_factor_that_the_engine_does_not_read(site: Site):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    config(site, rope_scaling=yarn | {"attention_factor": 1.138629})  # what yarn derives, shortened
    assert bad(model.model(site.read("learner"))) == []
    config(site, rope_scaling=yarn | {"attention_factor": 1.0})
    (found,) = bad(model.model(site.read("learner")))
    assert found.startswith("warn model: ")
    assert (
        "attention_factor = 1 is read by transformers and the learner, and not by SGLang, which computes 1.13863"
        in found
    )


def test_latents_that_the_engine_computes_otherwise(site: Site):
    """The weights are another model's: only the warning is looked at."""
    shape = {
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "head_dim": None, "q_lora_rank": None,
        "num_key_value_heads": None, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 4, "v_head_dim": 10,
        "n_group": 1, "topk_group": 1, "n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "moe_intermediate_size": 48, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
    }  # fmt: skip
    config(site, **shape, rms_norm_eps=1e-5)
    (found,) = [line for line in bad(model.model(site.read("learner"))) if line.startswith("warn model: ")]
    assert "rms_norm_eps = 1e-05 is read by SGLang for the norms of latents too" in found
    assert "take 1e-06" in found
    config(site, rms_norm_eps=1e-6)
    assert not any(line.startswith("warn model: ") for line in bad(model.model(site.read("learner"))))
    config(site, attention_bias=True)
    (found,) = [line for line in bad(model.model(site.read("learner"))) if line.startswith("warn model: ")]
    assert "attention_bias = true is read by transformers and the learner, and not by SGLang" in found


@pytest.mark.parametrize("kind", ["qwen3_moe", "glm4_moe"])
def test_a_tied_head_that_the_engine_does_not_tie(kind: str):
    (found,) = model.tied_head(Path("m"), {"model_type": kind, "tie_word_embeddings": True})
    assert found.state == "warn"
    assert "tie_word_embeddings = true is not read by SGLang for " + kind in found.found
    assert not list(model.tied_head(Path("m"), {"model_type": kind, "tie_word_embeddings": False}))
    assert not list(model.tied_head(Path("m"), {"model_type": "qwen3", "tie_word_embeddings": True}))


def glm(site: Site) -> dict[str, torch.Tensor]:
    """Puts a GLM-4.5 in place of the model, with a layer that predicts further tokens; returns that layer's tensors."""
    kind = AutoConfig.for_model(
        "glm4_moe", vocab_size=16, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2,
        moe_intermediate_size=16, first_k_dense_replace=1, attention_bias=True, max_position_embeddings=64,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(kind).save_pretrained(site.model)
    path = site.model / "model.safetensors"
    further = {f"model.layers.2.{name}.weight": torch.ones(32) for name in ("enorm", "hnorm", "shared_head.norm")}
    save_file(load_file(path) | further, path, metadata={"format": "pt"})
    return further


def test_tensors_that_are_left_out_are_named(site: Site):
    further = glm(site)
    (found,) = bad(model.model(site.read("learner")))
    assert found.startswith(f"warn model: {site.model}: 3 tensors of layers that predict further tokens")
    assert "(num_nextn_predict_layers = 1) are neither trained nor published" in found
    assert any(name in found for name in further)
    config(site, num_nextn_predict_layers=0)
    assert any("belongs to no parameter" in line for line in bad(model.model(site.read("learner"))))


def test_a_correction_bias_that_there_is_not(site: Site):
    rate = {"optimizer": {"expert_bias_rate": 0.001}}
    (found,) = bad(model.model(site.read("learner", **rate)))
    assert found.startswith("fail model: learner.optimizer.expert_bias_rate = 0.001: model_type = 'qwen")
    glm(site)
    assert not any("expert_bias_rate" in line for line in bad(model.model(site.read("learner", **rate))))


def test_a_truncated_file_of_weights(site: Site):
    path = next(site.model.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    assert "its header says" in bad(model.model(site.read("learner")))[0]
    assert model.parameters(site.read("learner")) is None
    path.write_bytes(struct.pack("<Q", 1 << 60))
    assert "not a safetensors file" in bad(model.model(site.read("learner")))[0]


def test_padded_rows_of_the_embedding_are_no_vocabulary_of_a_gateway(site: Site):
    config(site, vocab_size=64)
    rows = [finding for finding in model.model(site.read("learner")) if finding.check == "vocabulary"]
    assert [finding.state for finding in rows] == ["ok"]
    known = len(json.loads((site.model / "tokenizer.json").read_text())["model"]["vocab"])
    assert rows[0].found.endswith(f" the model 64: limits.vocab_size of gateways is {known}")


def test_an_index_that_contradicts_the_files(site: Site):
    (site.model / "model.safetensors.index.json").write_text('{"weight_map": {"lost": "model-2.safetensors"}}')
    (found,) = bad(model.model(site.read("learner")))
    assert found.startswith("fail model: ")
    assert "model.safetensors and model.safetensors.index.json, which lists lost in model-2.safetensors" in found


@pytest.mark.parametrize("kind", ["learner", "worker"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt_oss"}, "model_type = 'gpt_oss'"),
        ({"vocab_size": 5}, "the tokenizer has id 1"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config.quant_method = 'fp8'"),
        ({"dual_chunk_attention_config": {"chunk_size": 8}}, "dual_chunk_attention_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification"),
        ({"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window = True"),
        ({"attention_bias": True}, "self_attn.q_proj.bias is missing"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type = 'dynamic'"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers = 1"),
        ({"head_dim": None}, "config.json asks for"),
        ({"intermediate_size": 33}, "config.json asks for [33, 32]"),
    ],
)
def test_a_model_that_is_not_the_one_that_the_learner_computes(
    site: Site, kind: str, change: dict[str, Any], message: str
):
    config(site, **change)
    assert any(found.startswith("fail ") and message in found for found in bad(model.model(site.read(kind))))


@pytest.mark.parametrize("extra", ["model.layers.0.mlp.up_proj.weight_scale_inv", "score.weight"])
def test_tensors_that_no_parameter_reads(site: Site, extra: str):
    path = site.model / "model.safetensors"
    save_file({**load_file(path), extra: torch.ones(1)}, path)
    (found,) = bad(model.model(site.read("learner")))
    assert found.startswith(f"fail model: {path}: tensor {extra} belongs to no parameter")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_tensors_that_need_scales(site: Site, dtype: torch.dtype):
    path = site.model / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"].to(dtype)}, path)
    (found,) = bad(model.model(site.read("learner")))
    assert found.startswith(f"fail model: {path}: tensor lm_head.weight is stored as")


def test_keys_that_nobody_has_looked_at(site: Site):
    config(site, warp_factor=9, sparsity="new")
    (found,) = bad(model.model(site.read("learner")))
    assert found.startswith("warn model: ")
    assert found.endswith("config.json: unknown keys, which the learner ignores: sparsity, warp_factor")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "tensor = 3 does not divide the model's num_attention_heads = 4"),
        ({"intermediate_size": 640}, "tensor = 3 does not divide the model's intermediate_size = 640"),
    ],
)
def test_a_layout_that_does_not_fit(site: Site, change: dict[str, Any], message: str):
    config(site, **change)
    assert any(message in found for found in bad(model.model(site.read("learner", parallel={"tensor": 3}))))
    run = ["learner.parallel.tensor=3", f"model.path={site.model}"]
    assert any(message in found for found in bad(model.model(examined_run(site, *run))))


def test_adapters_that_the_model_can_have_and_those_it_cannot(site: Site):
    lora: dict[str, Any] = {"rank": 4, "alpha": 8, "targets": ["q_proj", "up_proj"]}
    values = json.loads((site.model / "config.json").read_text())
    inner, outer = (
        values["hidden_size"],
        (values["num_attention_heads"] * values["head_dim"], values["intermediate_size"]),
    )
    count = values["num_hidden_layers"] * 4 * sum(inner + width for width in outer)
    found = [one for one in model.model(site.read("learner", lora=lora)) if one.check == "adapters"]
    assert [one.state for one in found] == ["ok"]
    assert f"rank 4 on q_proj, up_proj: {count:,} of {model.parameters(site.read('learner')):,}" in found[0].found
    glm(site)
    assert any(
        line.startswith("fail adapters: learner.lora.targets contains up_proj: the model is a mixture")
        for line in bad(model.model(site.read("learner", lora=lora)))
    )


def test_a_layout_that_the_demo_does_not_fit(site: Site):
    assert bad(model.model(examined_run(site))) == []
    found = bad(model.model(examined_run(site, "learner.parallel.tensor=3")))
    assert "tensor = 3 does not divide the model's num_attention_heads = 4" in found[0]
    assert all(line.startswith("fail ") for line in found)


def test_a_model_without_a_tokenizer(site: Site):
    (site.model / "tokenizer.json").unlink()
    assert "no tokenizer.json" in bad(model.model(site.read("learner")))[0]
