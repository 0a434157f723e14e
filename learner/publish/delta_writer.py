"""Differences of two versions, element by element and bit by bit, as a delta file stores them.

After one step at the learning rates of post-training most bfloat16 weights are unchanged: the update is below half a unit in
the last place. Only raw bits are compared: a -0.0 that became 0.0 has changed, a NaN that stayed has not. The format is in
proto/leeway/v1/manifest.proto, the decoder in runtime.version_format.delta_codec.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from learner.publish.safetensors_file import bits
from runtime.version_format.delta_codec import GAPS, VALUES

_GAP_DTYPES = ((1 << 8, torch.uint8), (1 << 16, torch.uint16), (1 << 32, torch.uint32))


def changes(new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that a delta file from ``old`` to ``new`` stores; empty when nothing changed.

    Args:
        new: names to contiguous tensors on the host.
        old: tensors with the same names, dtypes and shapes.

    Returns:
        For each tensor that changed, whichever is smaller: the whole tensor under its name, or NAME#gaps and NAME#values.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in new.items():
        indices = (bits(tensor) != bits(old[name])).nonzero().flatten()
        if not len(indices):
            continue
        gaps = _narrowed(torch.diff(indices, prepend=indices.new_zeros(1)))
        if len(indices) * (gaps.element_size() + tensor.element_size()) < tensor.nbytes:
            found[name + GAPS] = gaps
            found[name + VALUES] = tensor.flatten()[indices]
        else:
            found[name] = tensor
    return found


def _narrowed(gaps: Tensor) -> Tensor:
    """Converts to the narrowest unsigned dtype that holds every gap."""
    largest = int(gaps.max())
    return gaps.to(next(dtype for bound, dtype in _GAP_DTYPES if largest < bound))
