"""The digest of a base: the same for the same tensors however they are divided, another one for any change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from runtime.version_format.base_digest import weights_digest

A, B = torch.arange(6.0).view(2, 3), torch.ones(4, dtype=torch.bfloat16)


def digest(directory: Path, *files: dict[str, torch.Tensor]) -> str:
    directory.mkdir()
    for number, tensors in enumerate(files):
        save_file(tensors, directory / f"model-{number}.safetensors")
    return weights_digest(directory)


def test_the_division_into_files_does_not_matter_and_everything_else_does(tmp_path: Path):
    whole = digest(tmp_path / "whole", {"a": A, "b": B})
    assert whole == digest(tmp_path / "cut", {"b": B}, {"a": A})
    assert whole.startswith("blake3:")
    others = [{"a": A + 1, "b": B}, {"a": A.view(3, 2), "b": B}, {"a": A, "b": B.half()}, {"a": A}, {"a": A, "c": B}]
    found = {whole} | {digest(tmp_path / str(number), tensors) for number, tensors in enumerate(others)}
    assert len(found) == 1 + len(others)


def test_a_directory_without_weights_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.safetensors"):
        weights_digest(tmp_path)
