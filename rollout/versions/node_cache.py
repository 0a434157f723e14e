"""A directory of versions that the workers of one machine share: each version is made once, and stays while it is read.

Everything rests on locks that the kernel releases when their holder dies (flock): one on the directory, held by whoever adds
or removes a version, and one on each version, shared by those who read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from rollout.versions.manifest import FetchError
from runtime.version_format.names import version_name, versions_on_disk

_ASK_EVERY_S = 0.2
_LONGEST_S = 4 * 3600.0  # that another worker may take to make a version; its transfers have limits of their own


class NodeCache:
    """One worker's access to the directory.

    Args:
        root: the directory; made when it is first used.
        kept: newest versions that stay, besides those that are held; also how many each worker holds, which are those that
            its engines may still read.
    """

    def __init__(self, root: Path, kept: int) -> None:
        self.root = root
        self._kept = kept
        self._held: dict[int, int] = {}  # version -> descriptor with a shared lock
        self._recent: list[int] = []

    def path(self, version: int) -> Path:
        """Directory of a version, whether or not it is there."""
        return self.root / version_name(version)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context in which no other worker adds or removes versions.

        Raises:
            FetchError: another one has it too long, or the directory cannot be written to: its disk may be full.
        """
        try:
            with self._alone():
                yield
        except OSError as error:
            raise FetchError("cache_dir", f"{self.root}: {error}") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            deadline = time.monotonic() + _LONGEST_S
            while not _try(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise FetchError("cache_dir", f"{self.root}: locked by another worker for {_LONGEST_S:.0f} s")
                time.sleep(_ASK_EVERY_S)
            yield
        finally:
            os.close(descriptor)

    def hold(self, version: int) -> None:
        """Keeps a version from being removed by any worker, until ``settle``. Call it inside ``locked``."""
        if version not in self._held:
            self._held[version] = descriptor = os.open(self._lock_file(version), os.O_RDWR | os.O_CREAT)
            fcntl.flock(descriptor, fcntl.LOCK_SH)

    def settle(self, version: int | None) -> None:
        """Lets go of all versions but the newest few that were settled on: these, engines may still read.

        Args:
            version: the version that engines are about to read; None if there is none.
        """
        if version is not None:
            self._recent = [*(one for one in self._recent if one != version), version][-self._kept :]
        for held in set(self._held) - set(self._recent):
            os.close(self._held.pop(held))

    def evict(self) -> None:
        """Removes versions older than the newest few that nobody holds. Call it inside ``locked``."""
        for version in versions_on_disk(self.root)[: -self._kept]:
            lock_file = self._lock_file(version)
            descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT)
            try:
                if _try(descriptor, fcntl.LOCK_EX):
                    shutil.rmtree(self.path(version), ignore_errors=True)
                    lock_file.unlink()
            finally:
                os.close(descriptor)

    def discard(self, versions: list[int]) -> None:
        """Removes ``versions``, which are damaged, whoever holds them. Call it inside ``locked``."""
        for version in versions:
            shutil.rmtree(self.path(version), ignore_errors=True)

    def _lock_file(self, version: int) -> Path:
        return self.root / f".{version_name(version)}.lock"


def _try(descriptor: int, lock: int) -> bool:
    try:
        fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
