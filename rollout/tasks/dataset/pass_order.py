"""The order of rows in each pass over a data set: another one for each pass and seed, without a list of it."""

from __future__ import annotations

import hashlib

_ROUNDS = 6
_LEAST_BITS = 3  # of half a number: on fewer, the rounds have too few permutations to choose from


class PassOrder:
    """A permutation of 0 to size - 1 for each pass, of which any place can be computed by itself.

    It is a Feistel network on numbers of an even number of bits, the least that hold the size, keyed by seed and pass. What
    it leads to beyond the size goes through it again until it is within (cycle walking), four times at most on average
    where the size is not tiny. Nothing is stored, and nothing takes longer where there are more rows.

    Args:
        size: number of rows, at least 1.
        seed: with the number of the pass, what the order depends on.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._bits = max(_LEAST_BITS, ((size - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._bits) - 1

    def row(self, number: int, place: int) -> int:
        """Returns the row at a place in [0, size) of the pass with this number, from 0."""
        key = f"{self._seed}:{number}".encode()
        row = self._permuted(key, place)
        while row >= self._size:
            row = self._permuted(key, row)
        return row

    def _permuted(self, key: bytes, value: int) -> int:
        left, right = value >> self._bits, value & self._mask
        for turn in range(_ROUNDS):
            digest = hashlib.blake2b(b"%d:%d" % (turn, right), digest_size=8, key=key[:64]).digest()
            left, right = right, left ^ (int.from_bytes(digest, "big") & self._mask)
        return left << self._bits | right
