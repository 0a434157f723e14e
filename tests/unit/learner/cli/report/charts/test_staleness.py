"""The age of tokens, counted."""

from __future__ import annotations

from learner.cli.report.charts.staleness import staleness_tokens
from tests.tools.runs import step


def test_staleness_is_counted_in_tokens():
    rows = [
        step(1, staleness_mean=1.2, tokens=10),
        step(2, staleness_mean=2.6, tokens=30),
        step(3, staleness_tokens={"0": 5, "2": 7}, tokens=12),
    ]
    assert staleness_tokens(rows) == {0: 5, 1: 10, 2: 7, 3: 30}
