"""Reads the files of recorded groups that workers keep: WORKER-NUMBER.jsonl, numbers ascending, a torn last line at most."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from runtime.rollout_record import RecordedGroup, RecordError

_NAME = re.compile(r"(?P<worker>[A-Za-z0-9._-]+)-(?P<number>[0-9]{5,})\.jsonl")

Wanted = Callable[[RecordedGroup], bool]


@dataclass(frozen=True, order=True)
class RolloutFile:
    """One file of a worker.

    Attributes:
        worker: the worker's name.
        number: counts the worker's files from 0; the one with number 0 has its first groups, and is never deleted.
        path: where it is.
    """

    worker: str
    number: int
    path: Path

    @classmethod
    def of(cls, directory: Path, worker: str, number: int) -> RolloutFile:
        """The worker's file of that number, whether it exists or not."""
        return cls(worker, number, directory / f"{worker}-{number:05d}.jsonl")


def rollout_files(directory: Path, worker: str | None = None) -> list[RolloutFile]:
    """Returns the files in a directory, by worker and number; none if there is no directory.

    Args:
        directory: such as RUN/rollouts.
        worker: of this worker alone; None: of every worker.
    """
    found = []
    for path in directory.glob("*.jsonl"):
        match = _NAME.fullmatch(path.name)
        if match and worker in (None, match["worker"]):
            found.append(RolloutFile(match["worker"], int(match["number"]), path))
    return sorted(found)


class RecordReader:
    """Follows one file. A line is read once it is complete; lines that are no recorded group are passed over.

    Args:
        path: the file; it may not exist yet, or be deleted meanwhile.

    Attributes:
        damaged: number of lines that were passed over.
    """

    def __init__(self, path: Path) -> None:
        self.damaged = 0
        self._path = path
        self._offset = 0

    def __iter__(self) -> Iterator[RecordedGroup]:
        """Yields the groups that have become complete since the last time. Raises OSError."""
        for line in self.lines():
            try:
                yield RecordedGroup.parse(line)
            except RecordError:
                self.damaged += 1

    def lines(self) -> Iterator[bytes]:
        """Yields the lines that have become complete since the last time, unread, blank ones left out. Raises OSError."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                if line.strip():
                    yield line


def all_records(directory: Path) -> Iterator[RecordedGroup]:
    """Yields every group in a directory, worker by worker, oldest first. Raises OSError."""
    for file in rollout_files(directory):
        yield from RecordReader(file.path)


def first_records(directory: Path, count: int) -> list[RecordedGroup]:
    """Returns the ``count`` oldest groups of all workers, oldest first. Raises OSError."""
    found: list[RecordedGroup] = []
    for worker in _workers(directory):
        groups = (group for file in rollout_files(directory, worker) for group in RecordReader(file.path))
        found += islice(groups, count)
    return sorted(found, key=lambda group: group.time)[:count]


def last_records(directory: Path, count: int, wanted: Wanted = lambda group: True) -> list[RecordedGroup]:
    """Returns the ``count`` newest groups of all workers that are wanted, oldest first. Raises OSError."""
    found: list[RecordedGroup] = []
    for worker in _workers(directory):
        mine: list[RecordedGroup] = []
        for file in reversed(rollout_files(directory, worker)):
            mine = [*_last_of(file.path, count - len(mine), wanted), *mine]
            if len(mine) >= count:
                break
        found += mine
    return sorted(found, key=lambda group: group.time)[-count:] if count else []


def _last_of(path: Path, count: int, wanted: Wanted) -> list[RecordedGroup]:
    kept: deque[RecordedGroup] = deque()
    for line in reversed(list(RecordReader(path).lines())):
        if len(kept) >= count:
            break
        try:
            group = RecordedGroup.parse(line)
        except RecordError:
            continue
        if wanted(group):
            kept.appendleft(group)
    return list(kept)


def _workers(directory: Path) -> list[str]:
    return sorted({file.worker for file in rollout_files(directory)})
