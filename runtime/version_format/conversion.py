"""Weights converted to float32 and bfloat16, and the header of a file whose weights were. numpy, no torch."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from runtime.version_format.safetensors_header import SafetensorsHeader, StoredTensor
from runtime.version_format.wide_tensors import dtype_of

DTYPES = {"float32": "F32", "bfloat16": "BF16"}  # name in settings and manifests -> name in safetensors files
WEIGHTS = ("F32", "BF16", "F16")  # what is converted; tensors of any other dtype stay: they are no weights of the model
_WIDTH = {"F32": 4, "BF16": 2}
_ALIGNMENT = 8  # bytes; the data begin at a multiple of it


def converted(bits: np.ndarray, stored: str, dtype: str) -> np.ndarray:
    """Converts elements to "float32" (exactly) or to "bfloat16" (to the nearest, ties to even; NaN stays NaN).

    Args:
        bits: elements as unsigned integers as wide as their dtype, flat.
        stored: their dtype as safetensors spells it; others than those of WEIGHTS are returned as they are.
        dtype: the dtype to convert to.
    """
    if stored not in WEIGHTS or stored == DTYPES[dtype]:
        return bits
    if stored == "F16":  # float32 has all its numbers
        return converted(bits.view(np.float16).astype(np.float32).view(np.uint32), "F32", dtype)
    if dtype == "float32":
        return bits.astype(np.uint32) << 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    upper = bits >> 16
    rounded = (bits + (upper & 1) + np.uint32(0x7FFF)) >> 16  # only a NaN's bits can be so large that this wraps round
    return np.where(nan, upper | 0x40, rounded).astype(np.uint16)


def converts(header: SafetensorsHeader, dtype: str) -> bool:
    """Whether a file has tensors of another dtype than they have in a version whose weights are of ``dtype``."""
    return any(
        one.dtype in WEIGHTS and one.dtype != DTYPES[dtype_of(name, dtype)] for name, one in header.tensors.items()
    )


def converted_size(tensor: StoredTensor, dtype: str) -> int:
    """Bytes of a tensor's elements after their conversion to ``dtype``."""
    return tensor.count * _WIDTH[DTYPES[dtype]] if tensor.dtype in WEIGHTS else tensor.stop - tensor.start


def converted_header(header: SafetensorsHeader, dtype: str) -> SafetensorsHeader:
    """The header of a file in a version whose weights are of ``dtype``, its tensors in the order of their data."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    ranges: list[tuple[str, StoredTensor, int, int]] = []
    start = 0
    for name, tensor in sorted(header.tensors.items(), key=lambda item: item[1].start):
        own = dtype_of(name, dtype)
        stop = start + converted_size(tensor, own)
        kind = DTYPES[own] if tensor.dtype in WEIGHTS else tensor.dtype
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        ranges.append((name, replace(tensor, dtype=kind), start, stop))
        start = stop
    content = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    raw = len(content).to_bytes(8, "little") + content
    return SafetensorsHeader(
        raw, {name: replace(one, start=len(raw) + first, stop=len(raw) + last) for name, one, first, last in ranges}
    )
