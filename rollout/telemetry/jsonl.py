"""JSON-lines files of a worker: one object per line, stamped with the time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class JsonLines:
    """A JSON-lines file that is appended to; every line is written at once.

    At ``most_bytes`` it is renamed, to its name with ``.1`` at the end, in place of the one before, and begun anew.

    Args:
        path: the file; created, with its directory, when missing.
        most_bytes: its largest size in bytes.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._most_bytes = most_bytes
        self._open()

    def append(self, **row: Any) -> None:
        """Writes one row, ``time`` (Unix seconds) added."""
        line = json.dumps({"time": round(time.time(), 3), **row}) + "\n"
        if self._size and self._size + len(line) > self._most_bytes:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._open()
        self._size += self._file.write(line)  # ASCII: a character is a byte

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _open(self) -> None:
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._size = self._path.stat().st_size
