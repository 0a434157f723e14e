"""Sizes and digests of files, how they travel through collectives, and fsync of several files at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runtime.digest import ALGORITHM, SIZE, of_file, text

ROW = 1 + SIZE  # integers: the size, then the digest's bytes
_THREADS = 8


@dataclass(frozen=True)
class FileDigest:
    """Size of a file in bytes, and its digest as runtime.digest writes it."""

    size: int
    digest: str


def file_digest(path: Path) -> FileDigest:
    """Reads a whole file and returns its size and digest. Raises OSError."""
    return FileDigest(*of_file(path))


def file_digests(directory: Path, names: Iterable[str]) -> dict[str, FileDigest]:
    """Reads the named files of a directory; name -> size and digest. Raises OSError."""
    return {name: file_digest(directory / name) for name in names}


def make_durable(paths: Iterable[Path]) -> None:
    """Returns when files, and the lists of names of directories, are on disk (fsync). Raises OSError.

    All are asked for at once, so that the file system writes its log once for all of them.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(_sync, paths):
            pass


def to_row(found: FileDigest | None) -> list[int]:
    """Encodes a digest as ROW integers, for a collective; zeros stand for None."""
    return [0] * ROW if found is None else [found.size, *bytes.fromhex(found.digest.removeprefix(f"{ALGORITHM}:"))]


def of_row(row: list[int]) -> FileDigest | None:
    """Decodes what ``to_row`` has encoded."""
    return FileDigest(row[0], text(bytes(row[1:]))) if row[0] else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
