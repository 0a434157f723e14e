"""What a file must be, as text: the digest's algorithm and its value, such as "blake3:" and 64 hexadecimal digits.

BLAKE3 is what we write: as strong as SHA-256 (256 bits, no known attack on either) and several times as fast on one core, for
it is a tree of independent blocks. SHA-256 is what versions and checkpoints of earlier releases carry.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from blake3 import blake3

ALGORITHM = "blake3"
SIZE = 32  # bytes of a value
_ALGORITHMS = {"blake3": blake3, "sha256": hashlib.sha256}
_BLOCK = 1 << 20  # bytes read at once: what was read is still in the processor's cache when it is hashed


class DigestError(ValueError):
    """A digest that cannot be checked; the message names its algorithm."""


class Hasher(Protocol):
    """Takes bytes, in pieces of any size. ``update`` lets go of the interpreter lock."""

    def update(self, data: memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


def hasher(algorithm: str = ALGORITHM) -> Hasher:
    """Raises DigestError: not known."""
    if algorithm not in _ALGORITHMS:
        known = " and ".join(_ALGORITHMS)
        raise DigestError(f"algorithm {algorithm!r} is not known, only {known}: written by a newer leeway?")
    return _ALGORITHMS[algorithm]()


def algorithm_of(digest: str) -> str:
    """Raises DigestError: not known."""
    algorithm = digest.partition(":")[0]
    hasher(algorithm)
    return algorithm


def text(value: bytes, algorithm: str = ALGORITHM) -> str:
    """The digest with this value."""
    return f"{algorithm}:{value.hex()}"


def of_file(path: Path, algorithm: str = ALGORITHM) -> tuple[int, str]:
    """A file's size in bytes and its digest; reads all of it. Raises OSError, DigestError."""
    found, size = hasher(algorithm), 0
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            found.update(block[:count])
            size += count
    return size, text(found.digest(), algorithm)
