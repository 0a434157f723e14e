"""What is said of a run that makes no steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.view.stall import Stall, find_stall
from tests.tools.runs import make_run, step, write_rows


@pytest.fixture
def run_file(tmp_path: Path) -> RunFile:
    """A run with three steps, a second each; the last one ended at 1003."""
    return make_run(tmp_path / "r", steps=3)


def stall(run_file: RunFile, now: float, *rows: dict[str, Any]) -> Stall | None:
    write_rows(run_file.directory.metrics / "learner.jsonl", rows)
    return find_stall(RunHistory(run_file.directory.metrics).poll(), run_file, now)


def waits(what: str, since: float = 1004.0) -> dict[str, Any]:
    return {"kind": "activity", "time": since + 5, "what": what, "since": since}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("groups", "waiting for groups for 3m16s (since "),
        ("redis", "Redis does not answer for 3m16s (since "),
        ("checkpoint", "writing a checkpoint for 3m16s (since "),
        ("publication", "publishing a version for 3m16s (since "),
    ],
)
def test_it_says_what_the_learner_waits_for_and_since_when(run_file: RunFile, what: str, said: str):
    found = stall(run_file, 1200.0, waits(what))
    assert found is not None
    assert found.text(1200.0).startswith(said)
    assert "look" in found.look or "says" in found.look


def test_a_wait_that_has_ended_is_none(run_file: RunFile):
    assert stall(run_file, 1011.0, waits("groups"), waits("training", 1005.0)) is None


def test_a_step_ends_every_wait(run_file: RunFile):
    assert stall(run_file, 1021.0, waits("groups"), step(4, time=1020.0)) is None


def test_a_learner_that_says_nothing_is_looked_at_itself(run_file: RunFile):
    assert stall(run_file, 1030.0) is None
    found = stall(run_file, 1034.0)
    assert found is not None
    assert (found.what, found.since) == ("no step", 1003.0)
    assert "learner.log" in found.look


def test_slow_steps_are_no_stall(run_file: RunFile):
    rows = [step(number, time=1000.0 + 100 * number) for number in (4, 5, 6)]
    assert stall(run_file, 1600.0 + 400, *rows) is None
    assert stall(run_file, 1600.0 + 600) is not None


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "no worker of this machine has begun"),
        (["dead", "starting"], "none of 2 engines serves"),
        (["serving", "dead"], "1 of 2 engines serve; leeway ledger"),
    ],
)
def test_a_wait_for_groups_says_what_the_workers_do(run_file: RunFile, states: list[str], said: str):
    worker = run_file.directory.metrics / "worker-0.jsonl"
    worker.unlink()
    write_rows(worker, [{"kind": "engine", "time": 1.0, "engine": i, "state": one} for i, one in enumerate(states)])
    if not states:
        worker.unlink()
    found = stall(run_file, 1200.0, waits("groups"))
    assert found is not None
    assert found.look.startswith(said)


def test_a_run_without_workers_is_sent_to_its_fleets(tmp_path: Path):
    run_file = make_run(tmp_path / "r", steps=3)
    alone = run_file.model_copy(update={"rollout": run_file.rollout.model_copy(update={"workers": 0})})
    found = stall(alone, 1200.0, waits("groups"))
    assert found is not None
    assert "rollout.workers = 0" in found.look
    assert "leeway fleet add" in found.look
