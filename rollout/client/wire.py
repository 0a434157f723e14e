"""Converts token ids to and from the wire's form: little-endian int32, four bytes per id."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

_INT32 = "i"  # four bytes on every platform that CPython 3.11 supports


def encode_ids(ids: Sequence[int]) -> bytes:
    """Encodes token ids as little-endian int32. Raises OverflowError for an id outside [-2**31, 2**31)."""
    numbers = array(_INT32)
    numbers.extend(ids)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def decode_ids(data: bytes) -> list[int]:
    """Decodes what ``encode_ids`` made. Raises ValueError when the length is no multiple of 4."""
    numbers = array(_INT32)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
