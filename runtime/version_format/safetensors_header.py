"""The header of a safetensors file: which tensors it stores, and where. Standard library only."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LENGTH_BYTES = 8  # the file begins with the header's length, little-endian
_LARGEST = 100 << 20  # bytes; the safetensors library's own limit on a header


class HeaderError(ValueError):
    """A file that is not safetensors, or is incomplete; the message names it."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        file: the file that stores it.
        dtype: as safetensors spells it: "F32", "BF16", "U8", ...
        shape: sizes of its dimensions; empty for a scalar.
        start, stop: byte range of its elements in the file, row-major.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SafetensorsHeader:
    """A parsed header.

    Attributes:
        raw: the file's bytes up to its data, the length included.
        tensors: tensor name -> where it is stored, in the header's order.
    """

    raw: bytes
    tensors: dict[str, StoredTensor]


def read_header(path: Path) -> SafetensorsHeader:
    """Reads the header of a safetensors file and checks that the file has the size that the header implies.

    Raises:
        HeaderError: it is no such file, or its size differs.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        length_field = file.read(_LENGTH_BYTES)
        length = int.from_bytes(length_field, "little")
        if len(length_field) < _LENGTH_BYTES or not 0 < length <= _LARGEST:
            raise HeaderError(f"{path.name}: not a safetensors file (header of {length} bytes)")
        raw = length_field + file.read(length)
    data_start = len(length_field) + length
    try:
        entries = json.loads(raw[_LENGTH_BYTES:])
        entries.pop("__metadata__", None)
        tensors = {name: _stored_tensor(path, entry, data_start) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeaderError(f"{path.name}: not a safetensors file ({error!r})") from error
    expected, found = max((tensor.stop for tensor in tensors.values()), default=data_start), path.stat().st_size
    if found != expected:
        raise HeaderError(f"{path.name}: {found} bytes, its header says {expected}")
    return SafetensorsHeader(raw, tensors)


def _stored_tensor(path: Path, entry: dict[str, Any], data_start: int) -> StoredTensor:
    start, stop = entry["data_offsets"]
    return StoredTensor(path, entry["dtype"], tuple(entry["shape"]), data_start + start, data_start + stop)
