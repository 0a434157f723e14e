"""What every source of rows offers: reading all of them once, and any of them later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.tasks.base import TaskError
from rollout.tasks.row_error import RowError

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScannedRow:
    """A row as it was read.

    Attributes:
        number: its number in the source, from 0.
        values: its columns; at least those that were asked for, where it has them. None when it cannot be read.
        fault: why it cannot be read.
    """

    number: int
    values: Row | None
    fault: RowError | None = None


class RowSource(Protocol):
    """Rows with random access.

    Attributes:
        columns: names of all columns; None where each row has its own.
        fills_with_nulls: an object within a row has every key that it has in any row, null where it does not belong.
    """

    columns: Sequence[str] | None
    fills_with_nulls: bool

    def scan(self, columns: Sequence[str]) -> Iterator[ScannedRow]:
        """Yields all rows in their order; columns that are not named may be missing. To be called once, before ``row``."""
        ...

    def row(self, number: int) -> Row:
        """Returns the whole row of this number, which ``scan`` has yielded without a fault."""
        ...

    def place(self, number: int) -> str:
        """Returns where a row stands, for messages: its file and its line or row."""
        ...


def missing_package(package: str, what: str) -> TaskError:
    """Returns the error of a package that is not installed and that ``what`` needs."""
    return TaskError(
        f"task.options: {what} needs the package {package}, which is not installed here: pip install 'leeway[data]' (or "
        "pip install pyarrow datasets)"
    )
