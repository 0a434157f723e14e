"""The records of a queue's dump as files of a backup, none so large that it could not be kept in memory and sent again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from learner.backup.file_copy import FileCopy
from learner.backup.manifest import QUEUE
from learner.queue.dump_record import DumpRecord, decoded

AHEAD, INSTANT = f"{QUEUE}ahead-", f"{QUEUE}instant-"  # prefixes of names: what was read before, and at the instant
_PART_BYTES = 64 << 20


class QueueParts:
    """Writes records into files called ``prefix`` and a number.

    Args:
        copy: writes the files.
        prefix: AHEAD or INSTANT.
    """

    def __init__(self, copy: FileCopy, prefix: str) -> None:
        self._copy = copy
        self._prefix = prefix
        self._number = 0
        self._waiting: list[bytes] = []
        self._bytes = 0

    def add(self, records: Iterable[DumpRecord]) -> None:
        """Adds records; whenever 64 MiB have come together, they are written. Raises OSError."""
        for record in records:
            self._waiting.append(record.encoded())
            self._bytes += len(self._waiting[-1])
            if self._bytes >= _PART_BYTES:
                self.flush()

    def flush(self) -> None:
        """Writes what was added and is not written yet. Raises OSError."""
        if self._waiting:
            self._copy.write(f"{self._prefix}{self._number:06d}", b"".join(self._waiting))
            self._number += 1
            self._waiting, self._bytes = [], 0


def read_parts(directory: Path, prefix: str) -> Iterator[DumpRecord]:
    """Yields the records of a backup that was copied into a directory. Raises QueueError, OSError."""
    parts = sorted((directory / QUEUE).glob(f"{prefix.removeprefix(QUEUE)}*"))
    for part in parts:
        with part.open("rb") as file:
            yield from decoded(file, str(part))
