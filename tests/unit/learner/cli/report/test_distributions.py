"""What was trained stands beside what was not, interval by interval."""

from __future__ import annotations

from typing import Any

from learner.cli.report.distributions import distributions


def bucket(measure: str, outcome: str, lower: float, count: int) -> dict[str, Any]:
    return {"measure": measure, "outcome": outcome, "lower": lower, "upper": 2 * lower, "count": count}


def test_trained_and_expired_stand_side_by_side():
    histogram = [
        bucket("length", "trained", 128, 30),
        bucket("length", "expired", 128, 10),
        bucket("length", "expired", 256, 5),
        bucket("reward", "trained", 0.5, 7),
    ]
    found = distributions([{"fleet": "<a>", "histogram": histogram}])
    assert found.count("<tr>") == 3  # the head, and two intervals of lengths: by reward nothing has expired
    cells = "<td class=n>128</td><td class=n>256</td><td class=n>30</td><td class=n>10</td><td class=n>25.0%</td>"
    assert f"<tr><td>&lt;a&gt;</td><td>tokens per response</td>{cells}</tr>" in found
    assert "<td class=n>0</td><td class=n>5</td><td class=n>100.0%</td>" in found


def test_there_is_nothing_to_compare_when_all_was_trained():
    assert distributions([{"fleet": "a", "histogram": [bucket("length", "trained", 128, 30)]}]) == ""
    assert distributions([]) == ""
