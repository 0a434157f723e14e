"""A disk that can be filled up: a small tmpfs where mounting is permitted."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


class SmallDisk:
    """A mounted file system of its own.

    Attributes:
        directory: where it is mounted.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / "filler"

    @classmethod
    @contextlib.contextmanager
    def mounted(cls, directory: Path, megabytes: int) -> Iterator[SmallDisk | None]:
        """Mounts a tmpfs of ``megabytes`` for the block; yields None where mounting is not permitted."""
        directory.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(directory)]
        try:
            permitted = subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
        except FileNotFoundError:
            permitted = False
        if not permitted:
            yield None
            return
        try:
            yield cls(directory)
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], timeout=20, check=True)

    def fill(self) -> None:
        """Fills the disk to its last byte."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            for block in (b"\0" * (1 << 16), b"\0" * 512):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(block)

    def free(self) -> None:
        self._filler.unlink()
