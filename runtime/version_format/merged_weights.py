"""The tensors of a full version that an adapter yields on its base, one by one, as raw bits. numpy, no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.version_format.adapter import ADAPTER_WEIGHTS, AdapterError, adapters_in, merged
from runtime.version_format.conversion import DTYPES, WEIGHTS, converted, converted_header
from runtime.version_format.safetensors_header import SafetensorsHeader, StoredTensor, read_header
from runtime.version_format.tensor_bits import read_bits
from runtime.version_format.wide_tensors import dtype_of


class MergedWeights:
    """An adapter version merged into its base; nothing is read but headers before a tensor is asked for.

    Args:
        model: directory of the base.
        version: directory of the adapter version.
        rank: the adapter's.
        alpha: the adapter's; its product is scaled by alpha / rank.
        dtype: "float32" or "bfloat16", the data type of the result.

    Attributes:
        files: headers of the files of the full version, which has those of the base, by name.

    Raises:
        AdapterError: the adapter is malformed or does not fit the base.
        HeaderError: a file is not safetensors, or incomplete.
        OSError: a file cannot be read.
    """

    def __init__(self, model: Path, version: Path, rank: int, alpha: float, dtype: str) -> None:
        self._scaling, self._dtype = alpha / rank, dtype
        headers = {path.name: read_header(path) for path in sorted(model.glob("*.safetensors"))}
        self._base: dict[str, StoredTensor] = {}
        for header in headers.values():
            self._base |= header.tensors
        self.files: dict[str, SafetensorsHeader] = {
            name: converted_header(header, dtype) for name, header in headers.items()
        }
        self.tensors: dict[str, StoredTensor] = {}
        for header in self.files.values():
            self.tensors |= header.tensors
        self._adapters = adapters_in(
            read_header(version / ADAPTER_WEIGHTS).tensors,
            {name: tensor.shape for name, tensor in self._base.items()},
            rank,
        )
        for weight, pair in self._adapters.items():
            for one in (self._base[weight], pair.down, pair.up):
                if one.dtype not in WEIGHTS:
                    raise AdapterError(
                        f"{weight}: {one.file.name} has it in {one.dtype}, only {', '.join(WEIGHTS)} can be merged"
                    )

    def bits(self, name: str) -> np.ndarray:
        """A tensor of the full version as a new flat array of unsigned integers as wide as its dtype. Raises OSError."""
        stored = self._base[name]
        if name not in self._adapters:
            return converted(read_bits(stored), stored.dtype, dtype_of(name, self._dtype))
        pair = self._adapters[name]
        weight = _floats(stored, self._dtype).reshape(stored.shape)
        down, up = (_floats(one, "float32").reshape(one.shape) for one in (pair.down, pair.up))
        result = merged(weight, down, up, self._scaling)
        return converted(result.reshape(-1).view(np.uint32), "F32", self._dtype)


def _floats(tensor: StoredTensor, dtype: str) -> np.ndarray:
    """Elements as flat float32, after their conversion to ``dtype``."""
    bits = converted(read_bits(tensor), tensor.dtype, dtype)
    return converted(bits, DTYPES[dtype], "float32").view(np.float32)
