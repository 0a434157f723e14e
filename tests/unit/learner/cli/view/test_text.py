"""Numbers, durations and series as text."""

from __future__ import annotations

import pytest

from learner.cli.view.text import duration, number, sparkline


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3720, "1h02m")]
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_numbers_and_sparklines():
    assert (number(None), number(1234.5, 0), number(0.126)) == ("–", "1,234", "0.13")
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.5, 1.0]) == "▁▄█"
    assert sparkline([1.0] * 1000) == "█" * 24
    assert sparkline([0.0, 0.0]) == "▁▁"
