"""An adapter as PEFT stores it: its files, the names of its tensors, and its product with the scaling. numpy, no torch.

The order of the operations is a part of the format (proto/leeway/v1/manifest.proto), so that whoever merges an adapter into
its base gets the same bits, on any processor and from any slice of the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from runtime.version_format.safetensors_header import StoredTensor

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_THREADS = 8
_BLOCK = 1 << 16  # elements of a layer computed at once: they and the products stay in a processor's cache


class AdapterError(ValueError):
    """An adapter that is malformed or does not fit its base; the message names the tensor."""


@dataclass(frozen=True)
class LayerAdapter:
    """The pair of tensors that changes one linear layer.

    Attributes:
        down: A, [rank, in].
        up: B, [out, rank].
    """

    down: StoredTensor
    up: StoredTensor


def adapter_names(weight: str) -> tuple[str, str]:
    """Names of A and B of the layer whose weight has a Hugging Face name such as "model.layers.0.mlp.up_proj.weight"."""
    layer = _PREFIX + weight.removesuffix(".weight")
    return layer + _DOWN, layer + _UP


def adapters_in(
    stored: Mapping[str, StoredTensor], base: Mapping[str, tuple[int, ...]], rank: int
) -> dict[str, LayerAdapter]:
    """Pairs the tensors of an adapter: name of the base's weight -> what changes it.

    Args:
        stored: the adapter's tensors by their names.
        base: shapes of the base's tensors by their names.
        rank: of every pair.

    Raises:
        AdapterError: a tensor without its other half, of no layer of the base, or of another shape.
    """
    found: dict[str, LayerAdapter] = {}
    for name in stored:
        ending = next((one for one in (_DOWN, _UP) if name.endswith(one)), None)
        if ending is None or not name.startswith(_PREFIX):
            raise AdapterError(f"{name}: no name of PEFT's, {_PREFIX}LAYER{_DOWN} or {_PREFIX}LAYER{_UP}")
        weight = name.removeprefix(_PREFIX).removesuffix(ending) + ".weight"
        down, up = adapter_names(weight)
        if down not in stored or up not in stored:
            raise AdapterError(f"{name}: without {up if ending == _DOWN else down}")
        shape = base.get(weight, ())
        if len(shape) != 2:
            raise AdapterError(f"{name}: {weight} is no linear layer of the base")
        for one, expected in ((down, (rank, shape[1])), (up, (shape[0], rank))):
            if stored[one].shape != expected:
                raise AdapterError(f"{one}: {list(stored[one].shape)}, expected {list(expected)}")
        found[weight] = LayerAdapter(stored[down], stored[up])
    return found


def merged(weight: np.ndarray, down: np.ndarray, up: np.ndarray, scaling: float) -> np.ndarray:
    """Returns W + scaling * (B A), each operation rounded to float32, products added in the order of their rank.

    Args:
        weight: W, float32 [out, in], or any slice of it with those of A and B.
        down: A, float32 [rank, in].
        up: B, float32 [out, rank].
        scaling: alpha / rank; rounded to float32.
    """
    result = np.empty_like(weight)
    rows = max(1, _BLOCK // max(1, weight.shape[1]))

    def merge(start: int) -> None:
        part = slice(start, start + rows)
        total = up[part, :1] * down[:1]
        product = np.empty_like(total)
        for index in range(1, len(down)):
            np.multiply(up[part, index : index + 1], down[index], out=product)
            total += product
        total *= np.float32(scaling)
        np.add(weight[part], total, out=result[part])

    with ThreadPoolExecutor(_THREADS) as pool:  # numpy releases the interpreter lock
        for _ in pool.map(merge, range(0, len(weight), rows)):
            pass
    return result
