"""Free space of disks, watched by a thread of its own: a shared file system that hangs must not stop anything else."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

_EVERY_S = 10.0  # between two readings


class DiskWatch:
    """Reads the free space of the file systems of some directories every ten seconds, on a daemon thread.

    Args:
        directories: name -> path. A path that does not exist or cannot be read has no reading.

    Attributes:
        free: name -> bytes free at the last reading.
        size: name -> bytes in total at the last reading.
    """

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = dict(directories)
        self.free: dict[str, float] = {}
        self.size: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the readings."""
        self._ended.set()

    def _run(self) -> None:
        while True:
            for name, directory in self._directories.items():
                self._read(name, directory)
            if self._ended.wait(_EVERY_S):
                return

    def _read(self, name: str, directory: Path) -> None:
        try:
            usage = shutil.disk_usage(directory)
        except OSError:
            self.free.pop(name, None)
            self.size.pop(name, None)
        else:
            self.free[name], self.size[name] = usage.free, usage.total
