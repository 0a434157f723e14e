"""`leeway stop`: one signal, a second one where the first is not enough, and never a process that is not the run's."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.cli.operate.stop import stop_run
from learner.cli.run.run_directory import RunDirectory, RunError
from tests.tools.runs import REPOSITORY, make_run

LIMIT_S = 60.0
# Ends after as many signals as it is told, as `leeway up` does: the first one is for saving, the second one at once.
PROGRAM = """
import json, signal, sys
from pathlib import Path
from learner.cli.run.run_directory import RunDirectory
run, left = RunDirectory.at(Path(sys.argv[1])), int(sys.argv[2])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
with run.lock():
    print("locked", flush=True)
    while left:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        left -= 1
    run.summary.write_text(json.dumps({"status": "stopped", "steps": 3}))
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "r").directory


@contextlib.contextmanager
def in_progress(run: RunDirectory, signals: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, str(run.root), str(signals)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_a_run_in_progress_is_stopped_and_how_it_ended_is_said(run: RunDirectory):
    said: list[str] = []
    with in_progress(run, signals=1) as process:
        assert stop_run(run, LIMIT_S, said.append)
        assert process.wait(LIMIT_S) == 0
    assert said[0].startswith(f"stopping process {process.pid};")
    assert said[1:] == [f"{run.root}: stopped (stopped at step 3); continue with: leeway up {run.root} --resume"]


def test_its_own_grace_period_is_the_default(run: RunDirectory):
    said: list[str] = []
    with in_progress(run, signals=1):
        stop_run(run, None, said.append)
    assert "it has 36 s" in said[0]  # the demo's learner.stop_grace_s is 6


def test_a_run_that_is_still_there_gets_a_second_signal(run: RunDirectory):
    said: list[str] = []
    with in_progress(run, signals=2) as process:
        assert stop_run(run, 0.2, said.append)
        assert process.wait(LIMIT_S) == 0
    assert "ending it at once" in said[1]


def test_a_run_that_does_not_end_is_said(run: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("learner.cli.operate.stop._AT_ONCE_S", 0.2)
    said: list[str] = []
    with in_progress(run, signals=9):
        assert not stop_run(run, 0.1, said.append)
    assert "did not end" in said[-1]


def test_a_run_that_is_not_in_progress_is_left_alone(run: RunDirectory):
    said: list[str] = []
    (run.root / "lock").write_text("1\n")  # the last one's; process 1 lives
    assert stop_run(run, LIMIT_S, said.append)
    assert "not in progress" in said[0]


@pytest.mark.parametrize("pid", ["1", "2147483646"])
def test_a_process_that_has_not_locked_the_run_is_never_signalled(run: RunDirectory, pid: str):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with in_progress(run, signals=1) as process:
            for named in (str(other.pid), pid):
                (run.root / "lock").write_text(f"{named}\n")  # as it is where the locker is on another machine
                with pytest.raises(RunError, match=f"not in process {named} of this machine"):
                    stop_run(run, LIMIT_S, print)
            assert process.poll() is None
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(LIMIT_S)
