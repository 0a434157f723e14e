"""Reads Parquet files, with pyarrow, into rows in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from rollout.tasks.base import TaskError
from rollout.tasks.dataset.arrow_rows import ArrowRows
from rollout.tasks.dataset.row_source import missing_package

_AT_ONCE = 1 << 16  # rows of a record batch


def parquet_rows(files: Sequence[Path], wanted: Collection[str] | None) -> ArrowRows:
    """Returns the rows of Parquet files, one file after the other. They need not have the same columns.

    Args:
        files: in their order.
        wanted: columns that are read; None: all.

    Raises:
        TaskError: pyarrow is missing, or a file is not Parquet.
    """
    columns: dict[str, None] = {}
    for file in files:
        columns |= dict.fromkeys(_opened(file).schema_arrow.names)
    known = [name for name in columns if wanted is None or name in wanted]
    return ArrowRows(list(columns), _batches(files, known))


def _batches(files: Sequence[Path], columns: Collection[str]) -> Iterator[tuple[str, int, Any]]:
    for file in files:
        opened, first = _opened(file), 0
        here = [name for name in opened.schema_arrow.names if name in columns]
        try:
            for batch in opened.iter_batches(batch_size=_AT_ONCE, columns=here):
                yield str(file), first, batch
                first += batch.num_rows
            _give_back()
        except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
            raise _unreadable(file, error) from error


def _give_back() -> None:
    """Gives memory back to the system that decoding has used."""
    from pyarrow import default_memory_pool

    default_memory_pool().release_unused()


def _opened(file: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_package("pyarrow", f"{file} as Parquet") from error
    try:
        return parquet.ParquetFile(file, pre_buffer=False)  # buffered, the whole file stays in memory while it is read
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> TaskError:
    return TaskError(f"task.options: {file} cannot be read as Parquet: {error}")
