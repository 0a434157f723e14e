"""A file that is opened at the instant of a backup, and copied later: its content stays even if it is removed meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_TAIL = 1 << 20  # the longest line that a record may end with


class OpenedFile:
    """A file of a backup; a context manager. Several threads may read it.

    Args:
        name: its name in the backup.
        path: where it is.
        lines: whether it is a record of lines that grows: then only whole lines count.

    Attributes:
        size: bytes that it had when it was opened.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, name: str, path: Path, lines: bool = False) -> None:
        self.name = name
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        if lines:
            tail = self.read(max(0, self.size - _TAIL), _TAIL)
            self.size -= len(tail) - (tail.rfind(b"\n") + 1)

    def read(self, offset: int, size: int) -> bytes:
        """Reads up to ``size`` bytes from ``offset`` on; nothing behind the size that the file had. Raises OSError."""
        return os.pread(self._file.fileno(), max(0, min(size, self.size - offset)), offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def opened_tree(directory: Path, name: str) -> Iterator[OpenedFile]:
    """Opens every file of a directory, with those of its directories; ``name`` is the directory's in the backup.

    Raises:
        OSError: FileNotFoundError if the directory is not there (any more).
    """
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from opened_tree(Path(entry.path), f"{name}{entry.name}/")
        elif entry.is_file():
            yield OpenedFile(name + entry.name, Path(entry.path))
