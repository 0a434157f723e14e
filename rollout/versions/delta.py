"""Applying a delta to the files of its base, in place. numpy, no torch. The format is in manifest.proto."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_GAPS, _VALUES = "#gaps", "#values"
_BITS = {
    "BOOL": np.uint8, "U8": np.uint8, "I8": np.uint8, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8,
    "BF16": np.uint16, "F16": np.uint16, "I16": np.uint16, "U16": np.uint16,
    "F32": np.uint32, "I32": np.uint32, "U32": np.uint32, "F64": np.uint64, "I64": np.uint64, "U64": np.uint64,
}  # fmt: skip
_HEADER_LIMIT = 100 << 20  # bytes; safetensors' own limit on its header


class DeltaError(Exception):
    """Not a delta, or not one of this base. The message names the file and the tensor."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a safetensors file: where its raw bits lie."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file

    def bits(self, mode: str = "r") -> np.ndarray:
        """Its elements as unsigned integers, flat, mapped from the file."""
        count = math.prod(self.shape)
        if not count:  # nothing to map
            return np.empty(0, _BITS[self.dtype])
        return np.memmap(self.file, _BITS[self.dtype], mode, self.start, (count,))  # pyright: ignore[reportCallIssue,reportArgumentType]


def entries(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file. Raises DeltaError, OSError."""
    with path.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if not 0 < length <= _HEADER_LIMIT:
            raise DeltaError(f"{path.name}: safetensors header of {length} bytes")
        try:
            header = json.loads(content.read(length))
            header.pop("__metadata__", None)
            found = {
                name: Entry(path, item["dtype"], tuple(item["shape"]), 8 + length + item["data_offsets"][0])
                for name, item in header.items()
            }
            ends = [item["data_offsets"][1] for item in header.values()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DeltaError(f"{path.name}: not safetensors: {error!r}") from error
    if 8 + length + max(ends, default=0) > path.stat().st_size:
        raise DeltaError(f"{path.name}: cut short")
    return found


def patch(files: list[Path], delta: list[Path]) -> None:
    """Puts the delta's elements in place of those in ``files``.

    Args:
        files: safetensors files of the base; changed.
        delta: the delta's safetensors files.

    Raises:
        DeltaError: a tensor that the base has not, or has otherwise.
        OSError: a file cannot be read or written.
    """
    there: dict[str, Entry] = {}
    for path in files:
        there |= entries(path)
    for path in delta:
        for name, change in _changes(path):
            if name not in there:
                raise DeltaError(f"{path.name}: {name} is no tensor of the base")
            _patch(there[name], change, path, name)


def _changes(path: Path) -> Iterator[tuple[str, tuple[Entry, Entry | None]]]:
    """Names and (whole tensor, None) or (values, gaps)."""
    found = entries(path)
    for name, entry in found.items():
        if name.endswith(_VALUES):
            plain = name.removesuffix(_VALUES)
            if plain + _GAPS not in found:
                raise DeltaError(f"{path.name}: {name} without {plain}{_GAPS}")
            yield plain, (entry, found[plain + _GAPS])
        elif not name.endswith(_GAPS):
            yield name, (entry, None)


def _patch(place: Entry, change: tuple[Entry, Entry | None], path: Path, name: str) -> None:
    values, gaps = change
    if values.dtype != place.dtype or (gaps is None and values.shape != place.shape):
        raise DeltaError(
            f"{path.name}: {name} is {values.dtype}{list(values.shape)}, the base's {place.dtype}{list(place.shape)}"
        )
    elements = place.bits("r+")
    if gaps is None:
        elements[:] = values.bits()
        return
    where = np.cumsum(gaps.bits(), dtype=np.int64)
    if len(where) != math.prod(values.shape) or (len(where) and where[-1] >= len(elements)):
        raise DeltaError(f"{path.name}: {name} changes {len(where)} elements, beyond the base's {len(elements)}")
    elements[where] = values.bits()
