"""File digests (size and BLAKE3), their form in collectives, and fsync."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runtime.digest import ALGORITHM, SIZE, of_file, text

ROW = 1 + SIZE
_AT_ONCE = 8


@dataclass(frozen=True)
class FileDigest:
    """What a file must be: its size in bytes, and its digest as runtime.digest writes it."""

    size: int
    digest: str


def file_digest(path: Path) -> FileDigest:
    """Reads a file whole. Raises OSError."""
    return FileDigest(*of_file(path))


def file_digests(directory: Path, names: Iterable[str]) -> dict[str, FileDigest]:
    """Reads the named files of a directory. Raises OSError."""
    return {name: file_digest(directory / name) for name in names}


def make_durable(paths: Iterable[Path]) -> None:
    """Returns when files, and directories' lists of names, are on disk. Asked all at once, a journal is written once.

    Raises OSError."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(_sync, paths):
            pass


def to_row(found: FileDigest | None) -> list[int]:
    """ROW integers, for a collective; zeros for None."""
    return [0] * ROW if found is None else [found.size, *bytes.fromhex(found.digest.removeprefix(f"{ALGORITHM}:"))]


def of_row(row: list[int]) -> FileDigest | None:
    """The inverse of ``to_row``."""
    return FileDigest(row[0], text(bytes(row[1:]))) if row[0] else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
