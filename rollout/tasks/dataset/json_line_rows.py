"""Rows of JSON lines files: their places are kept in memory, and the rows stay in the files."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from rollout.tasks.base import TaskError
from rollout.tasks.dataset.row_source import Row, ScannedRow
from rollout.tasks.json_lines import json_lines, parse_line
from rollout.tasks.row_error import RowError

_State = tuple[int, int, int]  # inode, bytes and time of change of a file


class JsonLineRows:
    """The rows of JSON lines files, one file after the other.

    It needs 16 bytes of memory a row, whatever a row holds. A row is read from its file when it is asked for; a file that is
    changed meanwhile is noticed then.

    Args:
        files: in their order.
    """

    columns: Sequence[str] | None = None
    fills_with_nulls = False

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._firsts: list[int] = []  # number of the first row of each file
        self._states: list[_State] = []
        self._offsets = array("Q")
        self._lengths = array("I")
        self._lines = array("I")

    def scan(self, columns: Sequence[str]) -> Iterator[ScannedRow]:
        """Yields all rows; whatever columns are asked for, they are whole. Raises TaskError when a file cannot be read."""
        for file in self._files:
            self._firsts.append(len(self._offsets))
            try:
                self._states.append(_state(os.stat(file)))
                yield from self._scan_file(file)
            except OSError as error:
                raise TaskError(f"task.options: {file} cannot be read: {error.strerror}") from error

    def row(self, number: int) -> Row:
        """Returns a row. Raises TaskError when its file is gone or is not what it was."""
        file_number = self._file_number(number)
        file = self._files[file_number]
        try:
            with file.open("rb", buffering=0) as opened:
                unchanged = _state(os.fstat(opened.fileno())) == self._states[file_number]
                raw = os.pread(opened.fileno(), self._lengths[number], self._offsets[number])
        except OSError as error:
            raise TaskError(
                f"{file} cannot be read any more: {error.strerror}; keep the files of a data set while workers ask from it"
            ) from error
        if not unchanged:
            raise TaskError(f"{file} has changed since it was read: start the worker again; see task.on_change")
        return parse_line(raw)

    def place(self, number: int) -> str:
        """Returns file:line."""
        return f"{self._files[self._file_number(number)]}:{self._lines[number]}"

    def _scan_file(self, file: Path) -> Iterator[ScannedRow]:
        for line in json_lines(file):
            number = len(self._offsets)
            self._offsets.append(line.offset)
            self._lengths.append(len(line.raw))
            self._lines.append(line.number)
            try:
                yield ScannedRow(number, line.parse())
            except RowError as error:
                yield ScannedRow(number, None, error)

    def _file_number(self, number: int) -> int:
        # The last of them: a file without rows has the same first number as the next one.
        return bisect_right(self._firsts, number) - 1


def _state(found: os.stat_result) -> _State:
    return found.st_ino, found.st_size, found.st_mtime_ns
