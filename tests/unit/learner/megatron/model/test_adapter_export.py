"""The merged form that the learner publishes is what a worker makes of the adapters alone, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from learner.megatron.model.adapter_export import AdapterAssembly, MergedAssembly
from rollout.data.demo_model import DemoShape, write_model
from runtime.version_format.adapter import ADAPTER_WEIGHTS
from runtime.version_format.merged_weights import MergedWeights
from tests.tools.adapters import LORA, draw, merge, weights_of


class Weights:
    """All tensors of a model directory, as one rank has them."""

    parameters: Sequence[Parameter] = ()

    def __init__(self, model: Path, dtype: torch.dtype) -> None:
        self._tensors = [(name, tensor.to(dtype)) for name, tensor in weights_of(model).items()]

    def tensors(self, copies: Any) -> list[tuple[str, Tensor]]:
        return self._tensors


class Matrices:
    """Whole matrices of all adapters."""

    parameters: Sequence[Parameter] = ()

    def __init__(self, matrices: dict[str, Tensor]) -> None:
        self._matrices = matrices

    def of_stage(self, copies: Any) -> dict[str, Tensor]:
        return self._matrices


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_the_merged_form_is_what_a_worker_merges(
    tmp_path: Path, dtype: Literal["float32", "bfloat16"], stored: torch.dtype
):
    write_model(tmp_path, 0, DemoShape(layers=2, hidden=32, ffn=48))
    save_file(
        {name: tensor.to(stored) for name, tensor in weights_of(tmp_path).items()}, tmp_path / "model.safetensors"
    )
    kind = getattr(torch, dtype)
    drawn = draw(tmp_path, LORA, 1, kind)
    adapters = cast(AdapterAssembly, Matrices(dict(drawn)))
    found = dict(MergedAssembly(Weights(tmp_path, kind), adapters, LORA.scaling, dtype).tensors({}))
    expected = merge(tmp_path, drawn, LORA, kind)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == kind
        assert torch.equal(found[name], tensor), name
    (tmp_path / "version").mkdir()
    save_file(dict(drawn), tmp_path / "version" / ADAPTER_WEIGHTS)
    worker = MergedWeights(tmp_path, tmp_path / "version", LORA.rank, LORA.alpha, dtype)
    for name, tensor in found.items():
        assert torch.equal(torch.from_numpy(worker.bits(name).view("u1")), tensor.flatten().view(torch.uint8)), name
