"""Child processes: they die with us, whatever way we go, and stop within their grace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from runtime.children import Child, stop_all

DEADLINE_S = 60.0
# Starts a child that starts a grandchild, tells the pids of both, and waits.
PARENT = """
import sys, time
from pathlib import Path
from runtime.children import Child
code = '''
import os, sys, time
from pathlib import Path
from runtime.children import Child
inner = Child("inner", ["sleep", "600"], Path(sys.argv[1]) / "inner.log")
Path(sys.argv[1], "pids.part").write_text(f"{os.getpid()} {inner.pid}")
Path(sys.argv[1], "pids.part").rename(Path(sys.argv[1], "pids"))
time.sleep(600)
'''
Child("outer", [sys.executable, "-c", code, sys.argv[1]], Path(sys.argv[1]) / "outer.log")
time.sleep(600)
"""
STUBBORN = "trap '' TERM; echo up; sleep 600"


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {DEADLINE_S:.0f} s"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    started: list[Child] = []

    def start(*command: str) -> Child:
        started.append(Child("it", command, tmp_path / "it.log"))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_sigkill_of_the_parent_leaves_neither_child_nor_grandchild(tmp_path: Path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    try:
        wait_for((tmp_path / "pids").exists, "grandchild")
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert not any(gone(pid) for pid in pids)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait(DEADLINE_S)
    wait_for(lambda: all(gone(pid) for pid in pids), "end of the children")


def test_a_terminal_interrupt_does_not_reach_a_child(child: Callable[..., Child]):
    process = child("sleep", "600")
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_kill_takes_the_whole_session_even_after_its_leader_has_gone(child: Callable[..., Child], tmp_path: Path):
    process = child(
        "sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; exit 3"
    )
    wait_for(lambda: process.exit_code() == 3, "end of the leader")
    left = int((tmp_path / "pid").read_text())
    assert not gone(left)
    process.kill()
    wait_for(lambda: gone(left), "end of what the leader had left")


def test_stop_all_waits_one_common_grace_and_then_kills(child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch):
    stubborn = [child("sh", "-c", STUBBORN) for _ in range(12)]
    polite = child("sleep", "600")
    wait_for(lambda: stubborn[0].tail().split() == ["up"] * 12, "the stubborn children")
    deadlines: list[float] = []
    wait = Child.wait
    monkeypatch.setattr(Child, "wait", lambda self, deadline: deadlines.append(deadline) or wait(self, deadline))
    began = time.monotonic()
    stop_all([*stubborn, polite], grace_s=0.5)
    assert len(deadlines) == 13
    assert len(set(deadlines)) == 1
    assert deadlines[0] >= began + 0.5
    assert [process.exit_code() for process in stubborn] == [-signal.SIGKILL] * 12
    assert polite.exit_code() == -signal.SIGTERM


def test_output_is_appended_and_its_tail_is_kept_for_messages(child: Callable[..., Child]):
    first = child("sh", "-c", "seq 1 30; echo oops >&2")
    assert first.wait(time.monotonic() + DEADLINE_S)
    second = child("sh", "-c", "echo again")
    assert second.wait(time.monotonic() + DEADLINE_S)
    assert second.tail(3) == "30\noops\nagain"


def test_wait_says_when_the_deadline_came_first(child: Callable[..., Child]):
    process = child("sleep", "600")
    assert process.wait(time.monotonic() + 0.05) is False
    assert process.exit_code() is None
