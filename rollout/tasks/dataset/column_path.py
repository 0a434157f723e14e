"""Reaches columns of a row, nested ones too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

MISSING: Final = object()
_EXACT = 1 << 53  # up to here a float is the whole number that was meant


def lookup(row: Mapping[str, Any], path: str) -> Any:
    """Returns what a row has at a dotted path, MISSING where it has nothing.

    A column whose own name has the dots comes first. Numbers are places in a list: "answers.text.0".
    """
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def top_columns(path: str) -> tuple[str, str]:
    """Returns the names of columns that a path may be in: one with its dots, and one that is nested."""
    return path, path.split(".")[0]


def as_text(value: Any) -> str | None:
    """Returns a text, a number or a truth value as text; None where it is neither, or infinite, or not a number.

    A float without a fraction is written as a whole number: a column of whole numbers with gaps is one of floats for many
    libraries. Truth values are "true" and "false".
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(as_answer(value)) if _is_number(value) else None


def as_answer(value: Any) -> str | int | float | None:
    """Returns a text or number as it is, a float without a fraction as a whole number, a truth value as text.

    None where it is neither, or a number that is not finite.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value if _is_number(value) else as_text(value)


def is_json(value: Any) -> bool:
    """Whether JSON can hold a value: no bytes, dates, or numbers that are not finite."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_json(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(is_json, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
