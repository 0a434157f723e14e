"""Rows in Arrow's columns, in memory: what Parquet files and streamed datasets are read into."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rollout.tasks.dataset.row_source import Row, ScannedRow

_AT_ONCE = 4096  # rows that are Python objects at the same time


class ArrowRows:
    """Rows in record batches, which are taken from where they come only while they are scanned.

    It needs the memory of the columns in Arrow's form: a text its bytes and 4 more, a number 8 bytes; about what the Parquet
    file would take without compression.

    Args:
        columns: names of the columns; None: only the batches say them.
        batches: pyarrow.RecordBatch, each with its file (or the dataset's name) and the number of its first row therein.
    """

    fills_with_nulls = True

    def __init__(self, columns: Sequence[str] | None, batches: Iterable[tuple[str, int, Any]]) -> None:
        self.columns = columns
        self._coming = iter(batches)
        self._batches: list[tuple[str, int, Any]] = []
        self._firsts: list[int] = []

    def scan(self, columns: Sequence[str]) -> Iterator[ScannedRow]:
        """Yields all rows with the columns that are asked for; whoever stops early leaves the other batches unread."""
        number = 0
        for coming in self._coming:
            batch = coming[2]
            self._firsts.append(number)
            self._batches.append(coming)
            chosen = batch.select([name for name in batch.schema.names if name in columns])
            for start in range(0, batch.num_rows, _AT_ONCE):
                for values in chosen.slice(start, _AT_ONCE).to_pylist():
                    yield ScannedRow(number, values)
                    number += 1

    def row(self, number: int) -> Row:
        """Returns a row."""
        found = bisect_right(self._firsts, number) - 1
        return self._batches[found][2].slice(number - self._firsts[found], 1).to_pylist()[0]

    def place(self, number: int) -> str:
        """Returns the file and the row in it, from 1."""
        found = bisect_right(self._firsts, number) - 1
        source, first, _ = self._batches[found]
        return f"{source}, row {first + number - self._firsts[found] + 1}"
