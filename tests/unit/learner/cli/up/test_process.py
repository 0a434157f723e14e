"""A supervised process: restarted, given up, and asked for its reason."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learner.cli.up.process import Process, ProcessFailed, RestartPolicy
from runtime.children import Child

QUICK = RestartPolicy(budget=2, window_s=60, first_delay_s=0.01, longest_delay_s=0.02)
Make = Callable[[str], Process]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Process] = []

    def build(code: str) -> Process:
        log = tmp_path / "it.log"
        made.append(Process("it", lambda: Child("it", [sys.executable, "-c", code], log), log, QUICK))
        made[-1].start()
        return made[-1]

    yield build
    for process in made:
        if process.child is not None:
            process.child.kill()


def check_until(process: Process, condition: Callable[[], bool], may_finish: bool = False) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"still {process.state}"
        process.check(may_finish)
        time.sleep(0.01)


def test_a_death_is_followed_by_a_restart(make: Make, tmp_path: Path):
    marker = tmp_path / "second"
    process = make(
        f"import os, time; m = {str(marker)!r}; os.path.exists(m) and time.sleep(600); open(m, 'w'); os._exit(9)"
    )
    check_until(process, lambda: process.restarts == 1)
    assert process.state == "running"
    assert process.child is not None
    assert process.child.exit_code() is None


def test_ending_well_is_a_death_unless_it_may_finish(make: Make):
    learner = make("pass")
    check_until(learner, lambda: learner.state == "done", may_finish=True)
    gateway = make("pass")
    check_until(gateway, lambda: gateway.restarts == 1)


def test_dying_too_often_fails_with_its_own_reason(make: Make):
    process = make("import sys; sys.exit('KeyError: no such thing')")
    with pytest.raises(
        ProcessFailed, match=r"it: died 3 times in 60 s, last with exit status 1: KeyError: no such thing"
    ):
        check_until(process, lambda: False)
    assert process.restarts == 2


@pytest.mark.parametrize("status", [2, 3])
def test_a_fatal_status_fails_at_once(make: Make, status: int):
    line = json.dumps({"level": "error", "event": "configuration", "error": "model = 'x': no such directory"})
    process = make(f"import sys; print({line!r}); sys.exit({status})")
    with pytest.raises(ProcessFailed, match=r"^it: model = 'x': no such directory$"):
        check_until(process, lambda: False)
    assert process.restarts == 0


def test_the_status_of_a_rank_is_read_through_torchrun(make: Make):
    report = "Root Cause (first observed failure):\n  rank      : 1\n  exitcode  : 2 (pid: 1234)\n"
    process = make(f"import sys; print('ValueError: bad objective'); print({report!r}); sys.exit(1)")
    with pytest.raises(ProcessFailed, match="it: ValueError: bad objective"):
        check_until(process, lambda: False)


def test_only_the_output_since_the_last_start_counts(make: Make, tmp_path: Path):
    (tmp_path / "it.log").write_text("  exitcode  : 2 (pid: 1)\n")
    process = make("import os; os._exit(9)")
    check_until(process, lambda: process.restarts == 1)
