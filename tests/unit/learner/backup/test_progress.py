"""Tests of how far a backup is, in words."""

from __future__ import annotations

import pytest

from learner.backup import progress
from learner.backup.progress import CopyProgress, amount


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (1.25e9, "1.2 GB"), (5e15, "5000.0 TB")]
)
def test_amounts(size: float, text: str):
    assert amount(size) == text


def test_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 1.0, 6.0, 6.0, 7.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    told = CopyProgress(lines.append)
    told.expect(4000)
    for _ in range(3):
        told.advance(1000, "file")
    assert lines == ["2.0 KB of 4.0 KB (file)"]
    assert told.done == 3000
