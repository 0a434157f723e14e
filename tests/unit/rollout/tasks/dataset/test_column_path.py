"""Columns by dotted path, and values as text."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from rollout.tasks.dataset.column_path import MISSING, as_answer, as_text, is_json, lookup

ROW = {"a": {"b": {"c": 1}, "n": None}, "a.b": "its own name", "list": [{"x": "first"}, {"x": "second"}], "t": "text"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("t", "text"),
        ("a.b.c", 1),
        ("a.b", "its own name"),
        ("a.n", None),
        ("list.1.x", "second"),
        ("list.2.x", MISSING),
        ("list.-1.x", MISSING),
        ("a.n.x", MISSING),
        ("t.0", MISSING),
        ("nothing", MISSING),
    ],
)
def test_a_path_leads_into_objects_and_lists(path: str, value: Any):
    assert lookup(ROW, path) is value or lookup(ROW, path) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        (42, "42"),
        (-3.0, "-3"),
        (0.5, "0.5"),
        (1e300, "1e+300"),
        (10**400, "1" + "0" * 400),
        (True, "true"),
        (False, "false"),
        (float("nan"), None),
        (float("inf"), None),
        (None, None),
        ([1], None),
        (b"x", None),
    ],
)
def test_values_as_text(value: Any, text: str | None):
    assert as_text(value) == text


def test_answers_keep_their_type():
    given = [42, 42.0, 0.5, "42.0", True, 2.0**60, None, float("nan"), [1]]
    found = [as_answer(value) for value in given]
    assert found == [42, 42, 0.5, "42.0", "true", 2.0**60, None, None, None]
    assert [type(value) for value in found[:3]] == [int, int, float]


def test_what_json_can_hold():
    assert is_json({"a": [1, 0.5, None, True, {"b": "x"}]})
    assert not any(map(is_json, (b"x", datetime.date(2026, 1, 1), float("nan"), {"a": [b"x"]}, {1: 2})))
