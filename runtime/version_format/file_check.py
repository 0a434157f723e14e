"""Files of a directory compared with the sizes and digests they should have, several files at a time."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from runtime.digest import DigestError, algorithm_of, of_file

_THREADS = 4  # hashing releases the interpreter lock


@dataclass(frozen=True)
class ExpectedFile:
    """What a file must be: its name within the directory, its size in bytes, its digest as runtime.digest writes it."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class FileFault:
    """A file that is not what it should be.

    Attributes:
        name: the file's name within the directory.
        kind: "missing" (no such file), "size", "digest" (which covers a digest whose algorithm is not known), or
            "unreadable" (the disk gave an error, so that nothing is known of the content: it may pass).
        reason: continues ``kind``: what was found and what was expected.
    """

    name: str
    kind: Literal["missing", "size", "digest", "unreadable"]
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {self.reason}"


def faults_of(directory: Path, files: Iterable[ExpectedFile], threads: int = _THREADS) -> list[FileFault]:
    """Reads every byte of ``files``; returns those that are wrong or unreadable, in order; empty when all are right."""
    with ThreadPoolExecutor(threads) as pool:
        return [fault for fault in pool.map(partial(_fault_of, directory), files) if fault is not None]


def _fault_of(directory: Path, file: ExpectedFile) -> FileFault | None:
    path = directory / file.name
    try:
        if not path.is_file():
            return FileFault(file.name, "missing", f"in {directory}")
        size = path.stat().st_size
        if size != file.size:
            return FileFault(file.name, "size", f"{size}, expected {file.size}")
        _, digest = of_file(path, algorithm_of(file.digest))
    except OSError as error:
        return FileFault(file.name, "unreadable", str(error))
    except DigestError as error:
        return FileFault(file.name, "digest", str(error))
    if digest != file.digest:
        return FileFault(file.name, "digest", f"{digest}, expected {file.digest}")
    return None
