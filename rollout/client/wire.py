"""Token ids in the form in which they travel: little-endian int32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def encode_ids(ids: Sequence[int]) -> bytes:
    """Token ids as little-endian int32, the wire's form."""
    return np.asarray(ids, dtype="<i4").tobytes()


def decode_ids(data: bytes) -> list[int]:
    """The inverse of ``encode_ids``. Raises ValueError when the length is no multiple of 4."""
    return np.frombuffer(data, dtype="<i4").tolist()
