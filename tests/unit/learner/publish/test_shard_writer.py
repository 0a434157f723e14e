"""A rank's file of a version: weights in the published dtype, and what must not be rounded in float32."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from learner.publish.shard_writer import ShardWriter

WEIGHT, BIAS = "model.layers.1.mlp.gate.weight", "model.layers.1.mlp.gate.e_score_correction_bias"


class Source:
    """A weight and a correction bias that bfloat16 does not hold."""

    def shard(self) -> list[tuple[str, Tensor]]:
        return [(WEIGHT, torch.tensor([1.001])), (BIAS, torch.tensor([1.001]))]

    def release(self) -> None:
        pass


def test_a_correction_bias_is_not_rounded(tmp_path: Path):
    ShardWriter(0, "bfloat16", deltas=False, full="model.safetensors").write(tmp_path, 1, Source(), None)
    found = load_file(tmp_path / "model.safetensors")
    assert found[WEIGHT].dtype == torch.bfloat16
    assert torch.equal(found[BIAS], torch.tensor([1.001]))
