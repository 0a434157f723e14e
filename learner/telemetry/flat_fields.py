"""Flattens nested fields into names with slashes, as experiment loggers show them, and hides secrets of a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from learner.queue.address import without_password

HIDDEN = "***"
_SECRET = re.compile(r"(password|secret|token|credential|api_?key|headers)", re.IGNORECASE)
_PATHS = re.compile(r"_file$", re.IGNORECASE)  # where a secret is, which is none itself
_FREE = frozenset({"url_options"})  # options of another library: any of them may be a credential
_ALLOWED = re.compile(r"[^A-Za-z0-9_\-. :]")  # what every logger takes in a name


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a step's row by name: ``{"length": {"p95": 9}}`` becomes ``{"length/p95": 9.0}``.

    Lists, texts and None are left out. In names that fleets choose, such as tasks, characters that a logger refuses become
    "_", a slash too.
    """
    return {name: float(value) for name, value in _leaves(row) if isinstance(value, (int, float)) and name != "step"}


def shown_config(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns a configuration for people: flat names, values as text, without credentials.

    Args:
        values: JSON values, as ``model_dump(mode="json")`` gives.
    """
    return {name: _shown(name, value) for name, value in _leaves(values) if value is not None}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = prefix + _part(str(key))
        tables = _tables(value)
        if tables is not None:
            yield from _leaves(tables, f"{name}/")
        else:
            yield name, value


def _tables(value: Any) -> Mapping[str, Any] | None:
    """What is below a value, by name: a table's entries, or a list's tables by their names or numbers; None for others."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(item, Mapping) for item in value):
        return None
    return {str(item.get("name", number)): item for number, item in enumerate(value)}


def _part(key: str) -> str:
    part = _ALLOWED.sub("_", key)
    return part if part.strip(". ") else "_" * max(1, len(part))


def _shown(name: str, value: Any) -> str:
    parts = name.split("/")
    if _FREE.intersection(parts) or (_SECRET.search(name) and not _PATHS.search(name) and isinstance(value, str)):
        return HIDDEN
    return without_password(value) if isinstance(value, str) and "://" in value else str(value)
