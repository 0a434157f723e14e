"""Elements of stored tensors as raw bits: flat arrays of unsigned integers as wide as the dtype. numpy, no torch."""

from __future__ import annotations

import numpy as np

from runtime.version_format.safetensors_header import HeaderError, StoredTensor

_UNSIGNED = {
    "BOOL": np.uint8, "U8": np.uint8, "I8": np.uint8, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8,
    "BF16": np.uint16, "F16": np.uint16, "I16": np.uint16, "U16": np.uint16,
    "F32": np.uint32, "I32": np.uint32, "U32": np.uint32, "F64": np.uint64, "I64": np.uint64, "U64": np.uint64,
}  # fmt: skip


def read_bits(tensor: StoredTensor) -> np.ndarray:
    """Reads a tensor from its file: a new, writable, flat array. Raises HeaderError for an unknown dtype, OSError."""
    dtype = _unsigned(tensor)
    return np.fromfile(tensor.file, dtype, tensor.count, offset=tensor.start)


def map_bits(tensor: StoredTensor) -> np.ndarray:
    """Maps a tensor's part of its file into a flat array: what is written to the array is written to the file.

    Raises HeaderError for an unknown dtype, OSError.
    """
    dtype = _unsigned(tensor)
    if not tensor.count:  # an empty range cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(tensor.file, dtype, "r+", tensor.start, (tensor.count,))


def _unsigned(tensor: StoredTensor) -> type[np.unsignedinteger]:
    if tensor.dtype not in _UNSIGNED:
        raise HeaderError(f"{tensor.file.name}: dtype {tensor.dtype!r} is not known, only {', '.join(_UNSIGNED)}")
    return _UNSIGNED[tensor.dtype]
