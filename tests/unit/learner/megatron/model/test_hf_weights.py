"""Reading the weights of Hugging Face directories: what is read, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.config.model_config import read_config
from learner.megatron.model.architecture import ModelError
from learner.megatron.model.hf_weights import Weights
from rollout.data.demo_model import write_model


def test_weights_of_one_file_and_of_several_read_alike(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    one, several = tmp_path / "one", tmp_path / "several"
    one.mkdir()
    several.mkdir()
    save_file(tensors, one / "model.safetensors")
    for name, tensor in tensors.items():
        save_file({name: tensor}, several / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in tensors}}
    (several / "model.safetensors.index.json").write_text(json.dumps(index))
    for directory in (one, several):
        for name, tensor in tensors.items():
            assert torch.equal(Weights(directory).read(name, tuple(tensor.shape)), tensor)


def test_unusable_weights_are_refused(tmp_path):
    with pytest.raises(ModelError, match="convert the weights to safetensors"):
        Weights(tmp_path)
    save_file({"a": torch.zeros(3, 2)}, tmp_path / "model.safetensors")
    weights = Weights(tmp_path)
    with pytest.raises(ModelError, match="tensor b is missing"):
        weights.read("b", (1,))
    with pytest.raises(ModelError, match=r"tensor a has shape \[3, 2\].*asks for \[2, 3\]"):
        weights.read("a", (2, 3))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError, match="cannot be read"):
        Weights(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.float64])
def test_values_that_need_scales_are_not_read(tmp_path, dtype):
    save_file({"a": torch.zeros(3, 2).to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: tensor a is stored as .*bfloat16 first"):
        Weights(tmp_path).read("a", (3, 2))


def test_a_stale_index_beside_a_single_file_is_refused(tmp_path):
    for file in ("model.safetensors", "old.safetensors"):
        save_file({"a": torch.zeros(3, 2)}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "old.safetensors"}}))
    with pytest.raises(ModelError, match=r"model\.safetensors and model\.safetensors\.index\.json"):
        Weights(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    write_model(tmp_path, 0)
    config = read_config(tmp_path)
    Weights(tmp_path).check(config)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"up_proj\.weight_scale_inv belongs to no parameter"):
        Weights(tmp_path).check(config)
