"""How far a backup or a restore is, in bytes, as lines of text now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_EVERY_S = 5.0
_UNITS = ("B", "KB", "MB", "GB", "TB")


class CopyProgress:
    """Counts bytes, from any thread.

    Args:
        tell: is told a line, every few seconds at most.
    """

    def __init__(self, tell: Callable[[str], None] = lambda line: None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._done = self._total = 0
        self._told = time.monotonic()

    @property
    def done(self) -> int:
        """Bytes that were copied."""
        return self._done

    def expect(self, size: int) -> None:
        """Adds bytes that will be copied."""
        with self._lock:
            self._total += size

    def advance(self, size: int, name: str) -> None:
        """Counts bytes of the file ``name`` as copied."""
        with self._lock:
            self._done += size
            if time.monotonic() - self._told < _EVERY_S:
                return
            self._told = time.monotonic()
            line = f"{amount(self._done)} of {amount(max(self._total, self._done))} ({name})"
        self._tell(line)


def amount(size: float) -> str:
    """A number of bytes for people, such as "1.2 GB"."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("the last unit returns")
