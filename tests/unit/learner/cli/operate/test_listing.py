"""`leeway list`: the state, step and reward of every run in a directory."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from learner.cli.operate.listing import ListedRun, list_json, list_table, runs_in
from learner.cli.run.run_directory import RunDirectory, RunError
from tests.tools.runs import make_run, step, write_rows


def listed(directory: Path) -> dict[str, ListedRun]:
    return {Path(run.path).name: run for run in runs_in(directory)}


def ended(run: RunDirectory, status: str, at: float) -> None:
    run.summary.write_text(json.dumps({"status": status, "steps": 3}))
    os.utime(run.summary, (at, at))


def test_each_state_is_told(tmp_path: Path):
    for name in ("finished", "failed", "stopped"):
        ended(make_run(tmp_path / name).directory, name, at=2000.0)
    make_run(tmp_path / "never said")
    ended(make_run(tmp_path / "resumed and died").directory, "stopped", at=1002.0)  # its last step is at 1003
    damaged = make_run(tmp_path / "damaged").directory
    damaged.settings.write_text("{")
    (tmp_path / "no run").mkdir()
    with make_run(tmp_path / "running").directory.lock():
        states = {name: run.status for name, run in listed(tmp_path).items()}
    assert states == {
        "finished": "finished", "failed": "failed", "stopped": "stopped", "never said": "interrupted",
        "resumed and died": "interrupted", "damaged": "damaged", "running": "running",
    }  # fmt: skip


def test_step_and_reward_are_those_of_the_last_steps(tmp_path: Path):
    run = make_run(tmp_path / "r", steps=3).directory
    rows: list[dict[str, Any]] = [step(number, reward=float(number)) for number in range(4, 20)]
    write_rows(run.metrics / "learner.jsonl", rows)
    with (run.metrics / "learner.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')  # being written
    (found,) = runs_in(tmp_path)
    assert (found.name, found.step, found.steps, found.reward) == ("demo", 19, 3, 14.5)


def test_a_run_without_steps_has_no_reward(tmp_path: Path):
    run = make_run(tmp_path / "r").directory
    (run.metrics / "learner.jsonl").unlink()
    (found,) = runs_in(tmp_path)
    assert (found.step, found.reward) == (0, None)


def test_the_newest_comes_first_as_table_and_json(tmp_path: Path):
    for name, at in (("old", 5000.0), ("new", 9000.0)):
        run = make_run(tmp_path / name).directory
        ended(run, "finished", at)
        for path in (run.settings, run.metrics / "learner.jsonl"):
            os.utime(path, (1000.0, 1000.0))
    found = runs_in(tmp_path)
    assert [Path(run.path).name for run in found] == ["new", "old"]
    assert [row["time"] for row in json.loads(list_json(found))] == [9000.0, 5000.0]
    output = io.StringIO()
    Console(file=output, width=200).print(list_table(found))
    _, first, _ = output.getvalue().splitlines()
    assert first.split()[:4] == [str(tmp_path / "new"), "finished", "3/3", "0.50"]
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(9000.0)) in first


def test_no_directory_is_an_error(tmp_path: Path):
    with pytest.raises(RunError, match="no such directory"):
        runs_in(tmp_path / "none")
    assert runs_in(tmp_path) == []
