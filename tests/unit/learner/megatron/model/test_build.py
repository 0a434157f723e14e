"""Loading the policy: a directory that is not the model that would be trained is refused before anything is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.config import LearnerConfig
from learner.megatron.model.architecture import ModelError
from learner.megatron.model.build import load_policy
from rollout.data.demo_model import write_model

UNUSED: Any = None  # the ranks: they are looked at when the model is built


def load(directory: Path) -> None:
    config = LearnerConfig.parse(
        {
            "model": directory, "queue": {"url": "redis://unused", "run": "test"}, "steps": 1, "metrics_dir": "unused",
            "checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "layers": "own",
        },
        source="test",
    )  # fmt: skip
    load_policy(directory, UNUSED, config)


def test_weights_with_scales_are_refused(tmp_path: Path):
    write_model(tmp_path, 0)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"up_proj\.weight_scale_inv belongs to no parameter.*bfloat16 first"):
        load(tmp_path)


def test_a_configuration_of_quantised_weights_is_refused(tmp_path: Path):
    write_model(tmp_path, 0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match=r"quantization_config\.quant_method = 'fp8'.*bfloat16 first"):
        load(tmp_path)
