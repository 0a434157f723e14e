"""Tests of a soak's verdicts: outliers do not move slopes, and planted leaks are found."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from learner.cli.run.run_directory import RunDirectory
from tests.soak.probe import Probe
from tests.soak.slope import judge, restarts, theil_sen


def samples(**series: object) -> list[dict[str, float]]:
    """Makes a sample every 10 s for half an hour; series are functions of the time in seconds."""
    times = [10.0 * n for n in range(181)]
    return [{"time": t, **{name: f(t) for name, f in series.items()}} for t in times]  # pyright: ignore


def verdicts(rows: list[dict[str, float]]) -> dict[str, bool | None]:
    return {f"{one.owner}|{one.measure}": one.passes for one in judge(rows, warmup_s=300)}


def test_the_slope_is_exact_on_a_line_and_unmoved_by_outliers():
    times = [float(n) for n in range(100)]
    assert theil_sen(times, [2 * t + 1 for t in times]) == pytest.approx(2)
    assert theil_sen(times, [2 * t + 1 + (500 if t % 4 == 0 else 0) for t in times]) == pytest.approx(2, abs=0.3)


def test_a_leak_of_a_megabyte_a_minute_is_seen_and_noise_is_not():
    rows = samples(**{
        "gateway|USS": lambda t: 100 + 3 * math.sin(t),
        "learner|USS": lambda t: 100 + t / 60,
        "worker|descriptors": lambda t: 40 + t // 600,
        "worker|threads": lambda t: 12,
    })  # fmt: skip
    assert verdicts(rows) == {
        "gateway|USS": True, "learner|USS": False, "worker|descriptors": False, "worker|threads": True,
    }  # fmt: skip


def test_growth_during_the_warm_up_counts_for_nothing():
    rows = samples(**{"learner|USS": lambda t: min(t, 300.0)})
    assert verdicts(rows) == {"learner|USS": True}


def test_a_sawtooth_is_judged_by_its_height_and_the_audit_by_nothing():
    rows = samples(**{
        "Redis|append-only file": lambda t: 30 + t % 250,
        "disk|redis": lambda t: 100 + 0.5 * t,
        "disk|metrics": lambda t: t,
    })  # fmt: skip
    assert verdicts(rows) == {"Redis|append-only file": True, "disk|redis": False, "disk|metrics": None}


def test_a_helper_that_came_and_went_is_no_series_and_a_restart_is_told():
    rows = samples(**{"learner|USS": lambda t: 50.0, "learner|pid": lambda t: 7.0 if t < 900 else 8.0})
    for row in rows[40:60]:
        row["helper|USS"] = 5.0
    assert verdicts(rows) == {"learner|USS": True}
    assert restarts(rows, warmup_s=300) == {"learner": 1}
    assert restarts(rows, warmup_s=1000) == {}


def test_the_probe_sees_memory_descriptors_and_disk(tmp_path: Path):
    run = RunDirectory.at(tmp_path)
    run.create()
    (run.metrics / "learner.jsonl").write_bytes(b"x" * 2_000_000)
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        run.processes.write_text(f'[{{"name": "gateway", "pid": {child.pid}, "restarts": 0}}]')
        sample = Probe(run, os.getpid()).take()
        assert child.stdin is not None
        child.stdin.close()
    assert sample["gateway|pid"] == child.pid
    assert 1 < sample["gateway|USS"] <= sample["gateway|RSS"] < 100
    assert sample["gateway|descriptors"] >= 3
    assert sample["disk|metrics"] == 2.0
    assert "Redis|used memory" not in sample  # none runs there
