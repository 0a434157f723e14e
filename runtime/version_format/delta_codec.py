"""Decoding of a delta version: which elements of which tensors change, and to which bits. numpy, no torch.

The files of a delta store, for each tensor that changed, either the whole tensor under its own name, or two flat tensors:
NAME#gaps, whose running sum gives the flat indices of the changed elements, and NAME#values, their new values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from runtime.version_format.safetensors_header import StoredTensor
from runtime.version_format.tensor_bits import read_bits

GAPS, VALUES = "#gaps", "#values"


class DeltaError(ValueError):
    """A delta that is malformed or does not fit its base; the message names the file and the tensor."""


@dataclass(frozen=True)
class TensorChange:
    """The change of one tensor.

    Attributes:
        values: the new elements.
        gaps: differences of successive flat indices of the elements that ``values`` replaces, the first one counted from 0;
            None when ``values`` is the whole tensor.
    """

    values: StoredTensor
    gaps: StoredTensor | None


def changes_in(stored: Mapping[str, StoredTensor]) -> dict[str, TensorChange]:
    """Pairs the tensors of one delta file: name of the changed tensor -> its change. Raises DeltaError."""
    changes: dict[str, TensorChange] = {}
    for stored_name, tensor in stored.items():
        if stored_name.endswith(VALUES):
            name = stored_name.removesuffix(VALUES)
            if name + GAPS not in stored:
                raise DeltaError(f"{tensor.file.name}: {stored_name} without {name}{GAPS}")
            changes[name] = TensorChange(tensor, stored[name + GAPS])
        elif not stored_name.endswith(GAPS):
            changes[stored_name] = TensorChange(tensor, None)
    return changes


def apply_change(name: str, change: TensorChange, base: StoredTensor, bits: np.ndarray) -> None:
    """Applies a change to the tensor ``name``, in place.

    Args:
        base: the tensor in the full version: its dtype and shape.
        bits: its elements, flat, as tensor_bits returns them; changed.

    Raises:
        DeltaError: another dtype or shape than the base's, or indices beyond it.
        OSError: the delta's file cannot be read.
    """
    values, file = change.values, change.values.file.name
    if values.dtype != base.dtype or (change.gaps is None and values.shape != base.shape):
        raise DeltaError(
            f"{file}: {name} is {values.dtype}{list(values.shape)}, the base's {base.dtype}{list(base.shape)}"
        )
    if change.gaps is None:
        bits[:] = read_bits(values)
        return
    indices = np.cumsum(read_bits(change.gaps), dtype=np.int64)
    if len(indices) != values.count or (len(indices) and indices[-1] >= len(bits)):
        raise DeltaError(f"{file}: {name} changes {len(indices)} elements, beyond the base's {len(bits)}")
    bits[indices] = read_bits(values)
