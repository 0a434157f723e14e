"""The model directory: its vocabulary size, and what is refused before a run starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learner.cli.up.model_check import vocabulary_size
from learner.config import ParallelConfig
from runtime.settings import SettingsError


def write_model(directory: Path, **config: object) -> Path:
    directory.mkdir()
    values = {"vocab_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, **config}
    (directory / "config.json").write_text(
        json.dumps({key: value for key, value in values.items() if value is not None})
    )
    (directory / "model.safetensors").touch()
    (directory / "tokenizer.json").touch()
    return directory


def test_a_model_directory_gives_its_vocabulary(tmp_path: Path):
    assert vocabulary_size(write_model(tmp_path / "m"), ParallelConfig(tensor=4, pipeline=2)) == 32


def test_a_mixture_of_experts_may_be_shared_out(tmp_path: Path):
    cut = ParallelConfig(tensor=2, sequence=True, expert=4)
    assert vocabulary_size(write_model(tmp_path / "m", num_experts=8), cut) == 32


@pytest.mark.parametrize(
    ("config", "cut", "message"),
    [
        ({}, {"tensor": 3}, "learner.parallel.tensor = 3 does not divide the model's num_attention_heads = 4"),
        ({"num_key_value_heads": 2}, {"tensor": 4}, "does not divide the model's num_key_value_heads = 2"),
        ({}, {"pipeline": 4}, "learner.parallel.pipeline = 4 does not divide the model's num_hidden_layers = 2"),
        ({}, {"expert": 2}, "learner.parallel.expert = 2: the model is dense"),
        ({"num_experts": 6}, {"expert": 4}, "learner.parallel.expert = 4 does not divide the model's num_experts = 6"),
        ({"num_local_experts": 4}, {"tensor": 2, "expert": 2}, "needs learner.parallel.sequence = true"),
        ({"vocab_size": None}, {}, "not the configuration of a causal language model: KeyError('vocab_size')"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(tmp_path: Path, config: dict, cut: dict, message: str):
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
