"""A power cut at Redis's machine: what its append-only file had not been forced to disk is gone."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

_WINDOW_S = 0.6  # `appendfsync everysec` syncs once a second: half of it is as likely to be lost as not


class PowerCut:
    """Remembers how long the file was, and cuts it back to that.

    Args:
        file: the append-only file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sizes: deque[tuple[float, int, int]] = deque()  # when, which file, bytes

    def sample(self) -> None:
        """Call it often."""
        now = time.monotonic()
        if not self._file.exists() or (self._sizes and now - self._sizes[-1][0] < 0.05):
            return
        stat = self._file.stat()
        self._sizes.append((now, stat.st_ino, stat.st_size))
        while len(self._sizes) > 1 and self._sizes[1][0] < now - _WINDOW_S:
            self._sizes.popleft()

    def cut(self) -> int:
        """Cuts the file of a server that is dead back to what it was; the bytes lost. A rewritten file stays whole."""
        stat = self._file.stat()
        when, inode, size = self._sizes[0]
        if inode != stat.st_ino or size >= stat.st_size or time.monotonic() - when < _WINDOW_S / 2:
            return 0
        os.truncate(self._file, size)
        return stat.st_size - size
