"""`leeway up` around its supervisor: what a run that fails leaves behind, in run.json and in its name."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from learner.cli.run.outcome import Outcome
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import read_summary
from learner.cli.up import prepare, up
from leeway.v1 import rollout_pb2
from tests.tools.runs import DEMO, make_run, step, write_rows

FAILURE = "learner: model = /m is not the model that the checkpoint was trained from"
End = Callable[[RunDirectory, Outcome], None]


def fails(run: RunDirectory, outcome: Outcome) -> None:
    outcome.failure = FAILURE


def trains_and_fails(run: RunDirectory, outcome: Outcome) -> None:
    write_rows(run.metrics / "learner.jsonl", [step(4, time=time.time())])
    outcome.failure = "learner: died 6 times"


def is_stopped(run: RunDirectory, outcome: Outcome) -> None:
    outcome.signal = 2


def has_everything_rejected(run: RunDirectory, outcome: Outcome) -> None:
    outcome.signal = 2
    outcome.ledgers = [rollout_pb2.Ledger(fleet="local", received=4, rejected=4, rejected_by_reason={"vocabulary": 4})]


def breaks(run: RunDirectory, outcome: Outcome) -> None:
    raise OSError("no space left on device")


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Callable[[End], list[dict[str, Any]]]:
    """Puts a supervisor in place that ends at once; returns a list of what run.json said each time."""

    def put(end: End) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []

        class Supervisor:
            def __init__(self, run_file: RunFile, display: Any) -> None:
                self._run = run_file.directory

            def run(self) -> Outcome:
                seen.append(json.loads(self._run.settings.read_text()))
                outcome = Outcome(started=time.time(), ledgers=[])
                end(self._run, outcome)
                outcome.stopping = outcome.ended = time.time()
                return outcome

            @property
            def history(self) -> RunHistory:
                return RunHistory(self._run.metrics).poll()

        monkeypatch.setattr(up, "Supervisor", Supervisor)
        monkeypatch.setattr(prepare, "require_free", lambda address, key: None)  # nothing listens
        monkeypatch.setattr(prepare, "brief_preflight", lambda examined: iter(()))  # test_prepare.py has it
        return seen

    return put


def run(source: Path, *overrides: str, resume: bool = False) -> tuple[int, str]:
    """Runs `leeway up`; returns its exit status and what it printed."""
    output = io.StringIO()
    status = up.run_to_end(source, overrides, resume, Console(file=output, width=200, color_system=None))
    return status, output.getvalue()


@pytest.mark.parametrize("source", ["directory", "file"])
def test_a_resume_that_fails_leaves_the_settings_as_they_were(
    tmp_path: Path, supervised: Any, capsys: pytest.CaptureFixture[str], source: str
):
    directory = make_run(tmp_path / "r").directory
    before, seen = directory.settings.read_bytes(), supervised(fails)
    overrides = ["learner.groups_per_step=77", *([f"run.dir={directory.root}"] if source == "file" else [])]
    status, _ = run(DEMO if source == "file" else directory.root, *overrides, resume=True)
    assert status == 1
    assert [settings["learner"]["groups_per_step"] for settings in seen] == [77], "it did not run with --set"
    assert directory.settings.read_bytes() == before
    error = capsys.readouterr().err
    assert FAILURE in error
    assert "run.json is as it was before this resume" in error
    supervised(is_stopped)
    run(directory.root, resume=True)
    assert RunFile.read(directory.root).learner.groups_per_step != 77


def test_a_resume_that_breaks_leaves_the_settings_as_they_were(tmp_path: Path, supervised: Any):
    directory = make_run(tmp_path / "r").directory
    before = directory.settings.read_bytes()
    supervised(breaks)
    with pytest.raises(OSError, match="no space"):
        run(directory.root, "learner.groups_per_step=77", resume=True)
    assert directory.settings.read_bytes() == before


@pytest.mark.parametrize("end", [trains_and_fails, is_stopped])
def test_settings_with_which_a_step_was_trained_or_that_did_not_fail_are_the_runs_from_then_on(
    tmp_path: Path, supervised: Any, capsys: pytest.CaptureFixture[str], end: End
):
    directory = make_run(tmp_path / "r").directory
    supervised(end)
    run(directory.root, "learner.groups_per_step=77", resume=True)
    assert RunFile.read(directory.root).learner.groups_per_step == 77
    assert "as it was before" not in capsys.readouterr().err


def test_a_run_that_failed_before_its_first_step_does_not_block_its_name(tmp_path: Path, supervised: Any):
    directory = RunDirectory.at(tmp_path / "r")
    supervised(fails)
    assert run(DEMO, f"run.dir={directory.root}", "learner.groups_per_step=77")[0] == 1
    assert directory.settings.is_file(), "nothing to look at, or to resume"
    supervised(is_stopped)
    status, text = run(DEMO, f"run.dir={directory.root}")
    assert status == 128 + 2
    assert "the older run, which failed before its first step, was renamed to" in text
    assert RunFile.read(directory.root).learner.groups_per_step != 77
    older = RunDirectory.at(tmp_path / "r.1")
    assert (read_summary(older) or {})["failure"] == FAILURE


@pytest.mark.parametrize("end", [trains_and_fails, is_stopped])
def test_a_run_that_trained_or_was_stopped_keeps_its_name(tmp_path: Path, supervised: Any, end: End):
    directory = RunDirectory.at(tmp_path / "r")
    supervised(end)
    run(DEMO, f"run.dir={directory.root}")
    with pytest.raises(RunError, match="exists: add --resume"):
        run(DEMO, f"run.dir={directory.root}")
    assert not (tmp_path / "r.1").exists()


def test_a_directory_with_a_damaged_summary_or_of_something_else_is_left_alone(tmp_path: Path, supervised: Any):
    directory = RunDirectory.at(tmp_path / "r")
    supervised(fails)
    run(DEMO, f"run.dir={directory.root}")
    summary = directory.summary.read_text()
    directory.summary.write_text("{")
    with pytest.raises(RunError, match="exists"):
        run(DEMO, f"run.dir={directory.root}")
    directory.summary.write_text(summary)
    directory.settings.unlink()
    with pytest.raises(RunError, match="exists"):
        run(DEMO, f"run.dir={directory.root}")


def test_a_run_whose_groups_were_all_rejected_says_so_though_it_has_no_step(tmp_path: Path, supervised: Any):
    supervised(has_everything_rejected)
    status, text = run(DEMO, f"run.dir={tmp_path / 'r'}")
    assert status == 128 + 2
    line = f"every group of fleet local was rejected (4: vocabulary 4); see why with: leeway quarantine list {tmp_path / 'r'}"
    assert f"warning: {line}" in text
    assert line in (read_summary(RunDirectory.at(tmp_path / "r")) or {})["warnings"][0]


def test_a_run_that_another_process_has_locked_keeps_its_settings(tmp_path: Path, supervised: Any):
    directory = make_run(tmp_path / "r").directory
    before = directory.settings.read_bytes()
    supervised(fails)
    prepared = prepare.open_run(directory.root, ["learner.groups_per_step=77"], True, print)
    with directory.lock(), pytest.raises(RunError, match="in progress"), prepared.lock():
        pytest.fail("two processes have the lock")
    assert directory.settings.read_bytes() == before
