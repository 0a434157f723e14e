"""A power cut at Redis's machine: what its append-only file had not been forced to disk is gone."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

_WINDOW_S = 0.6  # `appendfsync everysec` syncs once a second: half of it is as likely to be lost as not


class PowerCut:
    """Samples the size of the append-only file and cuts the file back to an earlier one.

    Args:
        directory: where Redis keeps the parts of its append-only file; the newest is the one it writes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: deque[tuple[float, int, int]] = deque()  # when, which file, bytes

    def sample(self) -> None:
        """Records the size now. Call it often: more than one sample in 50 ms is skipped."""
        now = time.monotonic()
        file = self._file()
        if file is None or (self._sizes and now - self._sizes[-1][0] < 0.05):
            return
        stat = file.stat()
        self._sizes.append((now, stat.st_ino, stat.st_size))
        while len(self._sizes) > 1 and self._sizes[1][0] < now - _WINDOW_S:
            self._sizes.popleft()

    def cut(self) -> int:
        """Cuts a dead server's file back to its oldest sample; returns the bytes lost, 0 if the file was rewritten since."""
        file = self._file()
        if file is None:
            return 0
        stat = file.stat()
        when, inode, size = self._sizes[0]
        if inode != stat.st_ino or size >= stat.st_size or time.monotonic() - when < _WINDOW_S / 2:
            return 0
        os.truncate(file, size)
        return stat.st_size - size

    def _file(self) -> Path | None:
        return max(self._directory.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime, default=None)
