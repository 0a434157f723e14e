"""The model directory: its vocabulary size, and what is refused before a run starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learner.cli.preflight.network import DEMO_CONFIGS
from learner.cli.up.model_check import vocabulary_size
from learner.config import ParallelConfig
from learner.config.model_config import read_config
from rollout.data import demo_model
from runtime.settings import SettingsError

MOE = {"model_type": "qwen3_moe", "architectures": None, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def write_model(directory: Path, **config: object) -> Path:
    demo_model.write_model(directory, 0)
    path = directory / "config.json"
    values = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return directory


def test_a_model_directory_gives_its_vocabulary(tmp_path: Path):
    assert vocabulary_size(write_model(tmp_path / "m"), ParallelConfig(tensor=2, pipeline=2)) == 16


def test_ids_above_the_tokenizers_are_padding_of_the_embedding_and_no_vocabulary(tmp_path: Path):
    path = write_model(tmp_path / "m") / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"].pop("<unk>")
    tokenizer["added_tokens"] = [entry for entry in tokenizer["added_tokens"] if entry["content"] != "<unk>"]
    path.write_text(json.dumps(tokenizer))
    assert vocabulary_size(tmp_path / "m", ParallelConfig()) == 15
    (tmp_path / "m" / "added_tokens.json").write_text(json.dumps({"<more>": 40}))  # no row for it: it cannot be sampled
    assert vocabulary_size(tmp_path / "m", ParallelConfig()) == 16


@pytest.mark.parametrize(("name", "tools"), [("demo", False), ("demo-tools", True)])
def test_the_sizes_of_the_demo_are_those_of_the_model_that_is_made(tmp_path: Path, name: str, tools: bool):
    demo_model.write_model(tmp_path / "m", 0, tools=tools)
    config = read_config(tmp_path / "m")
    assert {key: config[key] for key in DEMO_CONFIGS[name]} == DEMO_CONFIGS[name]


@pytest.mark.parametrize(
    ("config", "cut", "message"),
    [
        ({}, {"tensor": 3}, "learner.parallel.tensor = 3 does not divide the model's num_attention_heads = 4"),
        ({}, {"pipeline": 4}, "learner.parallel.pipeline = 4 leaves chunks of the model without any of its num_h"),
        ({}, {"expert": 2}, "learner.parallel.expert = 2: the model is dense"),
        ({**MOE, "num_experts": 6}, {"expert": 4}, "expert = 4 does not divide the model's num_experts = 6"),
        ({**MOE, "num_local_experts": 4}, {"tensor": 2, "expert": 2}, "needs learner.parallel.sequence = true"),
        ({"vocab_size": None}, {}, "config.json: vocab_size is missing"),
        ({"model_type": "gpt2"}, {}, "config.json: model_type = 'gpt2' is not supported"),
        ({"quantization_config": {"quant_method": "fp8"}}, {}, "config.json: quantization_config.quant_method = 'fp8'"),
        ({"intermediate_size": 641}, {}, "model.safetensors: tensor model.layers.0.mlp.gate_proj.weight has shape"),
    ],
)
def test_a_model_that_is_not_supported_or_does_not_fit_is_refused(
    tmp_path: Path, config: dict, cut: dict, message: str
):
    with pytest.raises(SettingsError) as caught:
        vocabulary_size(write_model(tmp_path / "m", **config), ParallelConfig(**cut))
    assert message in str(caught.value)


def test_a_missing_or_incomplete_model_directory_is_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match=r'model.path = ".*/none": no such directory'):
        vocabulary_size(tmp_path / "none", ParallelConfig())
    model = write_model(tmp_path / "m")
    (model / "tokenizer.json").unlink()
    with pytest.raises(SettingsError, match=r"it has no tokenizer\.json"):
        vocabulary_size(model, ParallelConfig())


def test_damaged_weights_are_refused(tmp_path: Path):
    model = write_model(tmp_path / "m")
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(SettingsError, match=r"model\.safetensors: cannot be read"):
        vocabulary_size(model, ParallelConfig())
