"""JSON-lines files of a worker: one object per line, stamped with the time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class JsonLines:
    """A JSON-lines file that is appended to; every line is written at once.

    Args:
        path: the file; created, with its directory, when missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def append(self, **row: Any) -> None:
        """Writes one row, ``time`` (Unix seconds) added."""
        self._file.write(json.dumps({"time": round(time.time(), 3), **row}) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
