"""Reading the weights of Hugging Face directories: what is read, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from learner.megatron.model.architecture import ModelError
from learner.megatron.model.hf_weights import Weights


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
