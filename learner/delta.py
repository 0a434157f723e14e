"""What changed between two versions, element by element and bit by bit; the format is in manifest.proto.

After one step at the learning rates of post-training most bfloat16 weights are what they were: the update is below half a
unit in the last place. Only raw bits are compared: a -0.0 that became 0.0 has changed, a NaN that stayed has not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GAPS, VALUES = "#gaps", "#values"
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_GAPS = ((1 << 8, torch.uint8), (1 << 16, torch.uint16), (1 << 32, torch.uint32))


def changes(new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a delta file holds; empty when nothing changed.

    Args:
        new: names to contiguous tensors on the host.
        old: the same names, dtypes and shapes.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in new.items():
        bits, before = _bits(tensor), _bits(old[name])
        where = (bits != before).nonzero().flatten()
        if not len(where):
            continue
        gaps = _narrow(torch.diff(where, prepend=where.new_zeros(1)))
        if len(where) * (gaps.element_size() + tensor.element_size()) < tensor.nbytes:
            found[name + GAPS] = gaps
            found[name + VALUES] = tensor.flatten()[where]
        else:
            found[name] = tensor
    return found


def result_digest(layout: bytes, tensors: Mapping[str, Tensor]) -> tuple[int, bytes]:
    """Size and SHA-256 of the safetensors file with these tensors.

    Args:
        layout: the file's first bytes, up to the data, as an earlier version of the same tensors had them.
    """
    digest = hashlib.sha256(layout)
    size = len(layout)
    header = json.loads(layout[8:])
    header.pop("__metadata__", None)
    for name, _ in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        data: Any = _bits(tensors[name]).numpy()  # any array is a buffer
        digest.update(data)
        size += data.nbytes
    return size, digest.digest()


def read_layout(path: Path) -> bytes:
    """A safetensors file up to its data: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(_BITS[tensor.element_size()])


def _narrow(gaps: Tensor) -> Tensor:
    largest = int(gaps.max())
    return gaps.to(next(dtype for bound, dtype in _GAPS if largest < bound))
