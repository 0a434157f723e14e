"""Series of numbers from step rows."""

from __future__ import annotations

from learner.cli.report.charts.series import field, names_in, rolling, series

ROWS = [
    {"step": 1, "reward": 0.5, "tasks": {"a": {"parts": {"x": 1.0}}}},
    {"step": 2, "reward": None},
    {"step": 3, "reward": 0.25, "tasks": {"b": {"parts": {}}, "a": {"parts": {"w": 2, "x": None}}}},
]


def test_rolling_mean():
    assert rolling([1.0, 2.0, 3.0, 5.0], 2) == [1.0, 1.5, 2.5, 4.0]


def test_steps_without_a_number_are_left_out():
    assert series(ROWS, "reward") == ([1, 3], [0.5, 0.25])
    assert series(ROWS, "tasks", "a", "parts", "x") == ([1], [1.0])
    assert series(ROWS, "none", "deeper") == ([], [])
    assert field({"a": {"b": "text"}}, "a", "b") is None


def test_names_below_a_key():
    assert names_in(ROWS, "tasks") == ["a", "b"]
    assert names_in(ROWS, "tasks", "a", "parts") == ["w", "x"]
    assert names_in(ROWS, "reward") == []
