"""Environment variables that CUDA and torch's allocator of its memory read once, when they start. Imports no torch."""

from __future__ import annotations

import os

# The allocator's settings, by its name of today and the one that torch still reads.
_ALLOCATOR, _FORMER_ALLOCATOR = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"


def prepare(tensor: int) -> None:
    """Sets the variables for a learner; what is set already stays. Call it before torch is imported.

    Args:
        tensor: learner.parallel.tensor.
    """
    if _FORMER_ALLOCATOR not in os.environ:
        # Every row has another length: blocks of fixed size would leave gaps that no later tensor fits.
        os.environ.setdefault(_ALLOCATOR, "expandable_segments:True")
    if tensor > 1:
        # Megatron starts a collective before the product that it overlaps, and relies on CUDA to start them in that order.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
