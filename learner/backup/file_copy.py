"""Copies files into a backup and out of it, block by block, several at a time, and computes their digests on the way."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import IO

from learner.backup.errors import BackupError
from learner.backup.opened_file import OpenedFile
from learner.backup.progress import CopyProgress
from learner.backup.store import BackupStore
from learner.storage.digests import FileDigest
from runtime.digest import DigestError, algorithm_of, hasher, text
from runtime.transfer import at_once, transfer

_BLOCK = 4 << 20
_AT_ONCE = 4
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BASE_S, _SLOWEST = 600.0, 1 << 20  # a file's attempt may take so long, and a second more for each of so many bytes


class FileCopy:
    """Copies files into one backup. Methods raise OSError.

    Args:
        store: the backup.
        progress: is told of every block.

    Attributes:
        files: size and digest of what was copied, by its name in the backup.
    """

    def __init__(self, store: BackupStore, progress: CopyProgress) -> None:
        self.files: dict[str, FileDigest] = {}
        self._store = store
        self._progress = progress
        self._lock = threading.Lock()

    def copy(self, opened: Iterable[OpenedFile]) -> None:
        """Copies files, four at a time."""
        waiting = list(opened)
        self._progress.expect(sum(file.size for file in waiting))
        at_once([partial(self._copy, file) for file in waiting], _AT_ONCE)

    def write(self, name: str, content: bytes) -> None:
        """Writes a file from memory."""
        found = hasher()
        found.update(memoryview(content))
        self._store.put(name, content)
        self._note(name, FileDigest(len(content), text(found.digest())))
        self._progress.expect(len(content))
        self._progress.advance(len(content), name)

    def leave_out(self, prefix: str) -> None:
        """Removes a directory, whose name ends with a slash, from the backup again."""
        self.files = {name: found for name, found in self.files.items() if not name.startswith(prefix)}
        self._store.remove(prefix.rstrip("/"))

    def _copy(self, file: OpenedFile) -> None:
        def attempt() -> FileDigest:
            with self._store.writing(file.name) as target:
                return _pump(file.read, target, file.size, partial(self._progress.advance, name=file.name))

        self._note(file.name, transfer(file.name, attempt, _limit(file.size)))

    def _note(self, name: str, found: FileDigest) -> None:
        with self._lock:
            self.files[name] = found


def fetch(store: BackupStore, files: Mapping[str, FileDigest], directory: Path, progress: CopyProgress) -> None:
    """Copies files of a backup into a directory, four at a time, and compares every digest.

    Raises:
        BackupError: a file is missing, or is not what was written, or there is no room for it; the message names it.
        OSError: the directory cannot be written.
    """
    progress.expect(sum(file.size for file in files.values()))
    at_once([partial(_fetch, store, directory, progress, *item) for item in sorted(files.items())], _AT_ONCE)


def _fetch(store: BackupStore, directory: Path, progress: CopyProgress, name: str, expected: FileDigest) -> None:
    target = directory / name
    if not target.resolve().is_relative_to(directory.resolve()):
        raise BackupError(f"{store.uri}: the manifest names {name!r}, which is outside of the backup")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        algorithm = algorithm_of(expected.digest)
    except DigestError as error:
        raise BackupError(f"{store.uri}/{name}: {error}") from error

    def attempt() -> FileDigest:
        with store.reading(name) as source, target.open("wb", buffering=0) as written:
            done = 0

            def read(offset: int, size: int) -> bytes:
                nonlocal done
                assert offset == done
                block = source.read(size)
                done += len(block)
                return block

            # One byte more than expected: a file that has grown is found too.
            found = _pump(read, written, expected.size + 1, partial(progress.advance, name=name), algorithm)
            os.fsync(written.fileno())
            return found

    try:
        found = transfer(name, attempt, _limit(expected.size))
    except OSError as error:
        if (
            isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_SPACE
        ):  # only what is written needs room
            raise BackupError(
                f"{target}: there is no room for its {expected.size:,} bytes ({error.__cause__.strerror}): the backup is not "
                "to blame; make room, and restore again"
            ) from error
        raise BackupError(f"{store.uri}/{name}: cannot be read ({error}): use another backup") from error
    if found != expected:
        raise BackupError(
            f"{store.uri}/{name}: damaged ({found.size} bytes, {found.digest}; expected {expected.size}, {expected.digest}): "
            "use another backup"
        )


def _pump(
    read: Callable[[int, int], bytes],
    target: IO[bytes],
    size: int,
    advance: Callable[[int], None],
    algorithm: str = "blake3",
) -> FileDigest:
    """Copies up to ``size`` bytes; returns how many there were, and their digest."""
    found, done = hasher(algorithm), 0
    while done < size and (block := read(done, min(_BLOCK, size - done))):
        found.update(memoryview(block))
        rest = memoryview(block)
        while rest:  # an unbuffered write may take less than all of it
            rest = rest[target.write(rest) :]
        done += len(block)
        advance(len(block))
    return FileDigest(done, text(found.digest(), algorithm))


def _limit(size: int) -> float:
    return _BASE_S + size / _SLOWEST
