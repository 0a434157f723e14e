"""Series of numbers that charts are drawn from: one value of a step row for each step, and moving averages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from learner.cli.run.run_history import Row

SMOOTH = 10  # steps of a moving average


def rolling(values: Sequence[float], width: int) -> list[float]:
    """Moving average: at each index, the mean of the last ``width`` values (of fewer at the beginning)."""
    sums, result = 0.0, []
    for index, value in enumerate(values):
        sums += value - (values[index - width] if index >= width else 0.0)
        result.append(sums / min(index + 1, width))
    return result


def field(row: Row, *keys: str) -> float | None:
    """The number at a path of keys in a row; None where a part of the path is missing, or there is no number."""
    value: object = row
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None


def series(rows: Iterable[Row], *keys: str) -> tuple[list[int], list[float]]:
    """Steps that have a number at a path of keys, and these numbers."""
    found = [(row["step"], value) for row in rows if (value := field(row, *keys)) is not None]
    return [step for step, _ in found], [value for _, value in found]


def names_in(rows: Iterable[Row], *keys: str) -> list[str]:
    """Names below a path of keys in any row, sorted: tasks, parts of a reward, reasons."""
    found: set[str] = set()
    for row in rows:
        value: object = row
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        found |= set(value) if isinstance(value, dict) else set()
    return sorted(found)
