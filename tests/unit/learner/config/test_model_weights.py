"""The tensors of a model directory: those of the models that transformers saves, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from learner.config.model_config import ModelError, read_config
from learner.config.model_tensors import is_left_out, tensor_shapes
from learner.config.model_types import MODEL_TYPES
from learner.config.model_weights import check_tensors, stored_tensors

SIZES: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "num_experts": 3, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "mlp_only_layers": [1],
}  # fmt: skip
SIGMOID = {
    "n_routed_experts": 3, "n_shared_experts": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 1.0,
    "norm_topk_prob": True, "num_nextn_predict_layers": 1,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "head_dim": 4, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
    "v_head_dim": 8, "n_group": 1, "topk_group": 1,
}  # fmt: skip
K_PROJ = "model.layers.0.self_attn.k_proj.weight"


def save(directory: Path, kind: str, **changes: Any) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **changes}))
    model.save_pretrained(directory)
    return directory


def check(directory: Path) -> None:
    check_tensors(directory, read_config(directory), stored_tensors(directory))


def fault(directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check(directory)
    return str(caught.value)


def change(directory: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = directory / "model.safetensors"
    tensors = {name: tensor for name, tensor in {**load_file(path), **changes}.items() if tensor is not None}
    save_file(tensors, path, metadata={"format": "pt"})


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return load_file(save(tmp_path_factory.mktemp("saved"), "qwen3") / "model.safetensors")


@pytest.fixture
def directory(tmp_path: Path, saved: dict[str, torch.Tensor]) -> Path:
    config = {key: SIZES[key] for key in SIZES if key not in ("num_experts", "num_experts_per_tok", "mlp_only_layers")}
    values = {**config, "model_type": "qwen3", "rms_norm_eps": 1e-6, "architectures": ["Qwen3ForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    save_file(saved, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [kind for kind, known in MODEL_TYPES.items() if known.alias_of is None])
def test_the_tensors_of_a_model_are_those_that_transformers_saves(tmp_path: Path, kind: str, tied: bool):
    known = MODEL_TYPES[kind]
    options = {"attention_bias": tied} if "attention_bias" in known.reads else {}
    options |= {"use_qk_norm": tied} if known.qk_norm == "configured" else {}
    options |= SIGMOID if known.router is not None and known.router.corrected else {}
    options |= LATENT | {"q_lora_rank": 6 if tied else None} if known.attention == "latent" else {}
    directory = save(tmp_path, kind, tie_word_embeddings=tied, **options)
    check(directory)
    stored = {name: tensor.shape for name, tensor in stored_tensors(directory).items()}
    assert stored == tensor_shapes(read_config(directory))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8, torch.float64])
def test_a_quantised_tensor_is_refused(directory: Path, saved: dict[str, torch.Tensor], dtype: torch.dtype):
    change(directory, {K_PROJ: saved[K_PROJ].to(dtype)})
    text = fault(directory)
    assert f"{directory}/model.safetensors: tensor {K_PROJ} is stored as" in text
    assert "publish or convert to bfloat16 first" in text


@pytest.mark.parametrize("name", ["weight_scale_inv", "weight_scale", "bias", "qzeros"])
def test_a_tensor_that_no_parameter_reads_is_refused(directory: Path, name: str):
    extra = K_PROJ.replace("weight", name)
    change(directory, {extra: torch.ones(1), "score.weight": torch.ones(1)})
    text = fault(directory)
    assert f"{directory}/model.safetensors: tensor {extra} belongs to no parameter" in text
    assert "publish or convert to bfloat16 first (and 1 more such tensors)" in text


def test_tensors_that_hold_nothing_of_the_model_are_accepted(directory: Path, saved: dict[str, torch.Tensor]):
    change(directory, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    check(directory)
    change(directory, {"lm_head.weight": saved["model.embed_tokens.weight"].clone()})
    change_config(directory, tie_word_embeddings=True)
    check(directory)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path):
    directory = save(tmp_path, "glm4_moe", **SIGMOID)
    further = {
        f"model.layers.2.{name}": torch.ones(32) for name in ("enorm.weight", "mlp.gate.e_score_correction_bias")
    }
    change(directory, dict(further))
    check(directory)
    assert not further.keys() & tensor_shapes(read_config(directory)).keys()
    assert all(is_left_out(name, read_config(directory)) for name in further)
    change_config(directory, num_nextn_predict_layers=0)
    assert "tensor model.layers.2.enorm.weight belongs to no parameter" in fault(directory)


def test_a_tied_output_layer_that_is_another_one_is_refused(directory: Path):
    """Only what is equal is tied by transformers, so that it would not compute what the learner does."""
    change_config(directory, tie_word_embeddings=True)
    assert "lm_head.weight is not equal to model.embed_tokens.weight" in fault(directory)


def test_missing_and_reshaped_tensors_are_refused(directory: Path):
    change(directory, {K_PROJ: torch.ones(16, 31), "model.norm.weight": None})
    missing, reshaped = fault(directory).splitlines()
    assert f"{directory}: tensor model.norm.weight is missing" in missing
    assert f"tensor {K_PROJ} has shape [16, 31], but config.json asks for [16, 32]" in reshaped


def shard(directory: Path, saved: dict[str, torch.Tensor]) -> dict[str, str]:
    """Splits the weights over two files and writes their index; returns the index."""
    (directory / "model.safetensors").unlink(missing_ok=True)
    file_of = {name: f"model-{1 + i % 2}.safetensors" for i, name in enumerate(sorted(saved))}
    for file in set(file_of.values()):
        save_file({name: saved[name] for name in saved if file_of[name] == file}, directory / file)
    index(directory, file_of)
    return file_of


def index(directory: Path, file_of: Any) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))


def test_an_index_that_agrees_with_its_files(directory: Path, saved: dict[str, torch.Tensor]):
    index(directory, dict.fromkeys(saved, "model.safetensors"))
    check(directory)
    shard(directory, saved)
    check(directory)


def test_a_stale_index_beside_a_single_file_is_refused(directory: Path, saved: dict[str, torch.Tensor]):
    """A single file is read by transformers, the files of the index by an engine."""
    file_of = shard(directory, saved)
    save_file({name: tensor + 1 for name, tensor in saved.items()}, directory / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    assert torch.equal(theirs["model.norm.weight"], saved["model.norm.weight"] + 1)
    text = fault(directory)
    assert "model.safetensors and model.safetensors.index.json" in text
    assert file_of[next(iter(file_of))] in text
    for path in directory.glob("model-*"):
        path.unlink()
    assert "are two models" in fault(directory)


def test_an_index_that_contradicts_its_files_is_refused(directory: Path, saved: dict[str, torch.Tensor]):
    file_of = shard(directory, saved)
    other = {"model-1.safetensors": "model-2.safetensors", "model-2.safetensors": "model-1.safetensors"}[
        file_of[K_PROJ]
    ]
    index(directory, {**file_of, K_PROJ: other})
    assert f"lists {K_PROJ} in {other}, and {file_of[K_PROJ]} has it" in fault(directory)
    index(directory, {**file_of, "lost": other})
    assert f"lists lost in {other}, and no file has it" in fault(directory)
    index(directory, {**file_of, "lost": "model-3.safetensors"})
    assert f"{directory}/model-3.safetensors: model.safetensors.index.json lists it" in fault(directory)
    index(directory, file_of)
    path = directory / other
    save_file({**load_file(path), K_PROJ: saved[K_PROJ] + 1}, path)
    assert f"tensor {K_PROJ} is in model-1.safetensors and in model-2.safetensors" in fault(directory)


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}']
)
def test_an_unusable_index_is_refused(directory: Path, content: str):
    (directory / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json: no usable weight_map" in fault(directory)


def test_an_adapter_is_refused(directory: Path):
    """With peft, transformers loads the model that the adapter names, and not the one beside it."""
    (directory / "adapter_config.json").write_text("{}")
    assert f"{directory}/adapter_config.json: the learner loads no adapters: merge it" in fault(directory)
