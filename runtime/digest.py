"""Digests of files as text: the algorithm and the value, such as "blake3:" and 64 hexadecimal digits.

BLAKE3 is what is written: as strong as SHA-256 (256 bits, no known attack on either) and several times as fast on one core,
for it is a tree of independent blocks. A reader accepts SHA-256 too, as proto/leeway/v1/manifest.proto promises.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Protocol

from blake3 import blake3

ALGORITHM = "blake3"
SIZE = 32  # bytes of a value, in either algorithm
_ALGORITHMS = {"blake3": blake3, "sha256": hashlib.sha256}
_BLOCK = 1 << 22  # bytes read at once: two of them stay in a processor's cache


class DigestError(ValueError):
    """A digest that cannot be checked because its algorithm is not known; the message names it."""


class Hasher(Protocol):
    """A running hash of bytes that come in pieces of any size."""

    def update(self, data: memoryview, /) -> object:
        """Adds bytes; releases the interpreter lock meanwhile."""
        ...

    def digest(self) -> bytes:
        """The value for the bytes so far."""
        ...


def hasher(algorithm: str = ALGORITHM) -> Hasher:
    """Returns a new hash of ``algorithm``. Raises DigestError when it is not known."""
    if algorithm not in _ALGORITHMS:
        known = " and ".join(_ALGORITHMS)
        raise DigestError(f"algorithm {algorithm!r} is not known, only {known}: written by a newer leeway?")
    return _ALGORITHMS[algorithm]()


def algorithm_of(digest: str) -> str:
    """Returns the algorithm of a digest in text form. Raises DigestError when it is not known."""
    algorithm = digest.partition(":")[0]
    hasher(algorithm)
    return algorithm


def text(value: bytes, algorithm: str = ALGORITHM) -> str:
    """Text form of the digest with this value."""
    return f"{algorithm}:{value.hex()}"


def of_file(path: Path, algorithm: str = ALGORITHM) -> tuple[int, str]:
    """Reads a whole file; returns its size in bytes and its digest in text form. Raises OSError, DigestError.

    One block is hashed while the next is read. No memory map is used: there a disk error is a signal, not an OSError.
    """
    found, size = hasher(algorithm), 0
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size <= _BLOCK:
            content = file.readall()
            found.update(memoryview(content))
            return len(content), text(found.digest(), algorithm)
        blocks = [memoryview(bytearray(_BLOCK)) for _ in range(2)]
        with ThreadPoolExecutor(1) as thread:
            hashed = None
            for block in cycle(blocks):
                count = file.readinto(block)
                if hashed is not None:
                    hashed.result()
                if not count:
                    break
                hashed = thread.submit(found.update, block[:count])
                size += count
    return size, text(found.digest(), algorithm)
