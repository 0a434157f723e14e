"""Tests of JSON-lines files of bounded size."""

from __future__ import annotations

import json
from pathlib import Path

from rollout.telemetry.jsonl import JsonLines


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def test_a_file_is_begun_anew_at_its_bound_and_the_newest_lines_stay(tmp_path: Path):
    path = tmp_path / "worker-0.jsonl"
    lines = JsonLines(path, 200)
    for number in range(20):
        lines.append(number=number)
        assert path.stat().st_size <= 200
    lines.close()
    before = path.with_name("worker-0.jsonl.1")
    kept = numbers(before) + numbers(path)
    assert kept == list(range(kept[0], 20))
    assert 0 < kept[0] < 18
    assert sorted(tmp_path.iterdir()) == [path, before]


def test_what_a_process_before_wrote_counts(tmp_path: Path):
    path = tmp_path / "worker-0.jsonl"
    for number in range(5):
        lines = JsonLines(path, 120)
        lines.append(number=number)
        lines.close()
    assert path.stat().st_size <= 120
    assert numbers(path)[-1] == 4


def test_a_line_above_the_bound_is_written_all_the_same(tmp_path: Path):
    lines = JsonLines(tmp_path / "lines", 10)
    lines.append(number=1)
    lines.append(number=2)
    lines.close()
    assert numbers(tmp_path / "lines") == [2]
