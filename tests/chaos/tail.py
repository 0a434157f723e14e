"""Reads a JSON-lines file as it grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Tail:
    """A JSON-lines file that others append to; each whole row is returned once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def rows(self) -> list[dict[str, Any]]:
        """Rows that are new since the last call. A row that a killed process left unfinished is skipped."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        rows = []
        for line in whole.splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows
