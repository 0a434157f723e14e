"""Time that a learner has left after a stop signal, and its end when that time is over."""

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.checkpoint.store import latest
from learner.process.stop_signal import StopSignal

_LEARNER = """
import os, sys, threading
from pathlib import Path
from learner.checkpoint.saver import Checkpointer
from learner.storage.fence import DirectoryFence
from learner.config import CheckpointConfig
from learner.process.stop_signal import StopSignal
from runtime.logs import configure

class Disk:
    def begin_save(self, directory):
        if stop.requested() and sys.argv[2] == "hangs":
            os.mkfifo(directory / "shard")  # opened for writing, it answers when somebody reads
        self._thread = threading.Thread(target=(directory / "shard").write_text, args=["weights"], name="save")
        self._thread.start()

    def poll(self, blocking):
        self._thread.join(None if blocking else 0)
        return not self._thread.is_alive()

    def digests(self):
        return {}

class Accounts:
    def committed(self, step, refs, seconds): ...
    def not_saved(self, step, error): ...

configure("learner-0")
root = Path(sys.argv[1])
stop = StopSignal(float(sys.argv[3]))
stop.enforce()
fence = DirectoryFence(root, 1)
fence.acquire()
checkpointer = Checkpointer(CheckpointConfig(dir=root), fence, Disk(), Accounts(), lambda: None)
checkpointer.save(1)
checkpointer.finish()
print("saved", flush=True)
while not stop.requested():
    os.read(0, 1)
checkpointer.save(2)
checkpointer.finish()
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_time_runs_from_the_first_signal(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("learner.process.stop_signal.time.monotonic", lambda: now[0])
    stop = StopSignal(grace_s=30.0)
    assert (stop.requested(), stop.left_s()) == (False, None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert (stop.requested(), stop.left_s()) == (True, 29.0)  # and one to leave
    now[0] = 120.0
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.left_s() == 9.0
    now[0] = 140.0
    assert stop.left_s() == 0.0


def test_a_process_is_ended_shortly_before_its_grace_period_and_not_sooner(monkeypatch: pytest.MonkeyPatch):
    now, ended = [100.0], queue.SimpleQueue[tuple[int, float]]()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    module = "learner.process.stop_signal"
    monkeypatch.setattr(f"{module}.time.monotonic", lambda: now[0])
    monkeypatch.setattr(f"{module}.time.sleep", sleep)
    monkeypatch.setattr(f"{module}.os._exit", lambda status: ended.put((status, now[0])))
    stop = StopSignal(grace_s=30.0)
    stop.enforce()
    os.kill(os.getpid(), signal.SIGTERM)
    assert ended.get(timeout=60) == (1, 129.5)


@pytest.mark.parametrize(("disk", "grace_s", "status", "newest"), [("answers", 60.0, 0, 2), ("hangs", 1.5, 1, 1)])
def test_a_last_save_that_hangs_ends_with_the_grace_period(
    tmp_path: Path, disk: str, grace_s: float, status: int, newest: int
):
    command = [sys.executable, "-c", _LEARNER, str(tmp_path), disk, str(grace_s)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, 0, None, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE, env=environment
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            assert child.stdout.readline() == b"saved\n"
            child.send_signal(signal.SIGTERM)
            child.stdin.write(b"!")
            assert child.wait(90) == status
        finally:
            child.kill()
        said = child.stderr.read().decode()
    assert ("not done within the grace period" in said) == (disk == "hangs"), said
    assert ("write_text" in said) == (disk == "hangs")  # where each thread was
    resume = latest(tmp_path)
    assert resume is not None
    assert (resume.step, resume.damaged) == (newest, [])
