"""Finds the metric names in PromQL expressions; good enough for the queries that we write."""

from __future__ import annotations

import re
from typing import Any

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCHERS = re.compile(r"\{[^}]*\}")
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_KEYWORDS = {"and", "or", "unless", "offset", "bool", "group_left", "group_right", "inf", "nan"}


def metrics_of(expression: str) -> set[str]:
    """Names of the series that an expression reads, histogram suffixes included."""
    bare = re.sub(r"\[[^\]]*\]", "", _LABELS.sub("", _MATCHERS.sub("", _STRING.sub('""', expression))))
    found = set()
    for match in _NAME.finditer(bare):
        called = bare[match.end() :].lstrip().startswith("(")
        number = match.start() > 0 and (bare[match.start() - 1].isdigit() or bare[match.start() - 1] == "$")
        if not called and not number and match.group().lower() not in _KEYWORDS:
            found.add(match.group())
    return found


def queries_of(board: dict[str, Any]) -> list[str]:
    """Every query of a Grafana dashboard's panels."""
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]
