"""`leeway status`, seen from another process than the one that runs the run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from learner.cli.operate import status as status_module
from learner.cli.operate.status import print_status
from learner.cli.run.run_directory import RunDirectory
from learner.queue.change_journal import InForce
from leeway.v1 import rollout_pb2
from tests.tools.lively_run import make_lively_run
from tests.tools.runs import make_run, step, write_rows


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "r", steps=3).directory


@pytest.fixture
def pid() -> Iterator[int]:
    """A process that runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def status(run: RunDirectory, pid: int | None, name: str = "learner") -> list[str]:
    run.processes.write_text(json.dumps([{"name": name, "pid": pid, "restarts": 0}]))
    output = io.StringIO()
    with run.lock():
        print_status(Console(file=output, width=120, color_system=None), run)
    return output.getvalue().splitlines()


def line_of(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.startswith(name))


def test_a_learner_that_trains_is_training(run: RunDirectory, pid: int):
    write_rows(run.metrics / "learner.jsonl", [step(4, time=time.time())])
    lines = status(run, pid)
    assert line_of(lines, "learner").split()[1:] == ["training", str(pid)]
    assert "training" in lines[0]


def test_a_learner_that_has_been_resumed_and_not_yet_trained_is_starting(run: RunDirectory, pid: int):
    lines = status(run, pid)
    assert "starting" in line_of(lines, "learner")
    assert "starting" in lines[0]
    assert "training" not in lines[0]
    start = {"kind": "start", "time": time.time(), "epoch": 2, "resumed_step": 3, "recommitted": 0}
    write_rows(run.metrics / "learner.jsonl", [start])
    assert "waiting for rollouts" in line_of(status(run, pid), "learner")


def test_a_process_that_has_ended_does_not_run(run: RunDirectory):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    for gone in (ended.pid, None):
        assert "not running" in line_of(status(run, gone), "learner")


def test_a_learner_that_waits_says_for_what(run: RunDirectory, pid: int):
    now = time.time()
    write_rows(
        run.metrics / "learner.jsonl",
        [step(4, time=now), {"kind": "activity", "time": now + 1, "what": "redis", "since": now}],
    )
    assert any(line.startswith("Redis does not answer for ") for line in status(run, pid))


def test_the_ledger_and_the_last_evaluation_are_shown(tmp_path: Path):
    run = make_lively_run(tmp_path / "run").directory
    output = io.StringIO()
    print_status(Console(file=output, width=120, color_system=None), run)
    lines = output.getvalue().splitlines()
    expected = "ledger of local: 1,110 accepted = 980 trained + 130 expired; besides 10 duplicate; balances"
    assert expected in lines
    assert "evaluation gsm8k, greedy: mean@1 0.675 [0.625, 0.725] at version 60" in lines
    assert sum(line.startswith("evaluation ") for line in lines) == 3


def test_a_run_in_progress_whose_redis_has_no_data_yet_says_so(run: RunDirectory, pid: int):
    assert any(line.startswith("ledger: cannot be read (") for line in status(run, pid))


def test_a_ledger_that_does_not_balance_is_named(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, pid: int):
    ledgers = [rollout_pb2.Ledger(fleet="a", received=5, accepted=5, trained=3), rollout_pb2.Ledger(fleet="b")]
    monkeypatch.setattr(status_module, "ledgers_of", lambda run: ledgers)
    lines = status(run, pid)
    assert "ledger of a: 5 accepted = 3 trained; the ledger does not balance" in lines
    assert "ledger of b: 0 accepted = 0 trained; balances" in lines


def test_what_operators_have_changed_is_shown(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    in_force = InForce({"optimizer.lr": "1e-05"}, frozenset({"paris"}), frozenset(), False)
    monkeypatch.setattr(status_module, "_in_force", lambda _: in_force)
    lines = status(run, None)
    assert "changed settings: optimizer.lr=1e-05" in lines
    assert "drained fleets: paris" in lines
