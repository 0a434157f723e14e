"""An adapter merged into its base: equal to torch's to the bit, in both dtypes; what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rollout.data.demo_model import DemoShape, write_model
from runtime.version_format.adapter import ADAPTER_WEIGHTS, AdapterError, merged
from runtime.version_format.merged_weights import MergedWeights
from tests.tools.adapters import LORA, draw, merge, weights_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", 0, DemoShape(layers=2, hidden=32, ffn=48))
    return tmp_path / "model"


def merged_in(model: Path, tensors: list[tuple[str, torch.Tensor]], dtype: str) -> MergedWeights:
    version = model.parent / "version"
    version.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors}, version / ADAPTER_WEIGHTS)
    return MergedWeights(model, version, LORA.rank, LORA.alpha, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_every_tensor_is_torchs_to_the_bit(model: Path, dtype: str, stored: torch.dtype):
    path = model / "model.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in weights_of(model).items()}, path)
    kind = getattr(torch, dtype)
    adapters = draw(model, LORA, 1, kind)
    expected = merge(model, adapters, LORA, kind)
    found = merged_in(model, adapters, dtype)
    assert set(found.tensors) == set(expected)
    changed = 0
    for name, tensor in expected.items():
        bits = torch.from_numpy(found.bits(name).view(np.int32 if dtype == "float32" else np.int16)).view(kind)
        assert torch.equal(bits, tensor.flatten()), name
        assert found.tensors[name].shape == tuple(tensor.shape)
        changed += not torch.equal(tensor, weights_of(model)[name].to(kind))
    assert changed == 2 * len(LORA.targets)


def test_a_slice_has_the_bits_that_it_has_in_the_whole():
    """What makes the result the same on any processor and under any layout: no sum depends on the shape."""
    numbers = np.random.default_rng(0)
    weight, down, up = (numbers.standard_normal(shape).astype(np.float32) for shape in ((700, 300), (5, 300), (700, 5)))
    whole = merged(weight, down, up, 0.3)
    part = merged(weight[13:500, 7:], np.ascontiguousarray(down[:, 7:]), up[13:500], 0.3)
    assert np.array_equal(whole[13:500, 7:], part)
    assert np.allclose(whole, weight + 0.3 * (up @ down), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_named(model: Path):
    adapters = draw(model, LORA, 1)
    name = adapters[0][0]
    with pytest.raises(AdapterError, match=rf"{adapters[1][0]}: without {name}"):
        merged_in(model, adapters[1:], "float32")
    with pytest.raises(AdapterError, match=rf"{name}: \[2, 48\], expected \[3, 48\]"):
        merged_in(model, [(name, adapters[0][1][:2]), *adapters[1:]], "float32")
    with pytest.raises(AdapterError, match=r"layers\.9\.\S+ is no linear layer of the base"):
        merged_in(model, [(one.replace("layers.0", "layers.9"), tensor) for one, tensor in adapters], "float32")
    with pytest.raises(AdapterError, match=r"bias: no name of PEFT's"):
        merged_in(model, [*adapters, ("bias", adapters[0][1].clone())], "float32")
