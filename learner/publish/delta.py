"""What changed between two versions, element by element and bit by bit; the format is in manifest.proto.

After one step at the learning rates of post-training most bfloat16 weights are what they were: the update is below half a
unit in the last place. Only raw bits are compared: a -0.0 that became 0.0 has changed, a NaN that stayed has not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from learner.publish.safetensors_file import bits

GAPS, VALUES = "#gaps", "#values"
_GAPS = ((1 << 8, torch.uint8), (1 << 16, torch.uint16), (1 << 32, torch.uint32))


def changes(new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a delta file holds; empty when nothing changed.

    Args:
        new: names to contiguous tensors on the host.
        old: the same names, dtypes and shapes.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in new.items():
        where = (bits(tensor) != bits(old[name])).nonzero().flatten()
        if not len(where):
            continue
        gaps = _narrow(torch.diff(where, prepend=where.new_zeros(1)))
        if len(where) * (gaps.element_size() + tensor.element_size()) < tensor.nbytes:
            found[name + GAPS] = gaps
            found[name + VALUES] = tensor.flatten()[where]
        else:
            found[name] = tensor
    return found


def _narrow(gaps: Tensor) -> Tensor:
    largest = int(gaps.max())
    return gaps.to(next(dtype for bound, dtype in _GAPS if largest < bound))
