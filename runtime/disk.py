"""How much room a disk has, asked by a thread that may wait: a shared file system that hangs must stop nobody else."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

_EVERY_S = 10.0


class DiskWatch:
    """Looks at the file systems of some directories every few seconds, on a daemon thread.

    Args:
        directories: name -> where. One that is not there, or does not answer, has no reading.

    Attributes:
        free, size: name -> bytes, as last seen.
    """

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = dict(directories)
        self.free: dict[str, float] = {}
        self.size: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Looks no more."""
        self._ended.set()

    def _run(self) -> None:
        while True:
            for name, directory in self._directories.items():
                self._look(name, directory)
            if self._ended.wait(_EVERY_S):
                return

    def _look(self, name: str, directory: Path) -> None:
        try:
            usage = shutil.disk_usage(directory)
        except OSError:
            self.free.pop(name, None)
            self.size.pop(name, None)
        else:
            self.free[name], self.size[name] = usage.free, usage.total
