"""What a file is: its size and its SHA-256."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

_DIGEST = 32  # bytes of a SHA-256
ROW = 1 + _DIGEST


@dataclass(frozen=True)
class Seal:
    """Size in bytes, SHA-256."""

    size: int
    sha256: bytes


def seal(path: Path) -> Seal:
    """Makes a file durable and says what it is. Raises OSError."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        os.fsync(file.fileno())
        return Seal(file.tell(), digest)


def to_row(found: Seal | None) -> list[int]:
    """ROW integers, for a collective; zeros for None."""
    return [0] * ROW if found is None else [found.size, *found.sha256]


def of_row(row: list[int]) -> Seal | None:
    """The inverse of ``to_row``."""
    return Seal(row[0], bytes(row[1:])) if row[0] else None
