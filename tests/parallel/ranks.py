"""Starts ranks for tests: they run the cases of tests/parallel/worker.py on this machine."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).parents[2]


class RankParent:
    """The process that forks ranks (rank_parent.py): it has imported what they need, which takes longer than most cases.

    It is started with the first ranks, in the environment of that moment, and again if it has died. One launch at a time.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._status: int | None = 0  # of the latest launch

    def launch(self, world: int, cases: Path) -> None:
        """Forks ``world`` ranks that run the cases of a file."""
        assert self.poll() is not None, "the ranks of another launch are still there"
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = self._start()
        self._send(json.dumps({"world": world, "cases": str(cases)}).encode())
        self._status = None

    def poll(self) -> int | None:
        """The exit status of the first rank that failed, 0 if none did; None while some are running."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float) -> int:
        """Waits for the end of all ranks, and returns what ``poll`` does. Raises subprocess.TimeoutExpired."""
        if self._status is None:
            assert self._process is not None
            assert self._process.stdout is not None
            if not select.select([self._process.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("ranks", timeout)
            if answer := self._process.stdout.readline():
                self._status = int(answer)
            else:
                self._status = self._process.wait(60) or 1
                self.stop()
        return self._status

    def kill(self) -> None:
        """Sends SIGKILL to the ranks that are running, and waits for their end."""
        if self.poll() is None:
            self._send(b"")
            self.wait(60)

    def stop(self) -> None:
        """Ends the parent, and with it its ranks."""
        if self._process is not None:
            process, self._process = self._process, None
            with process:  # which closes its input
                pass

    def _start(self) -> subprocess.Popen[bytes]:
        path = [str(_ROOT), str(_ROOT / "proto"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"}
        first = [] if torch.cuda.is_available() else ["import"]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.rank_parent", *first], env=environment, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def _send(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")


_PARENT = RankParent()
atexit.register(_PARENT.stop)


def run_cases(world: int, cases: list[dict[str, Any]], out: Path, timeout_s: float = 540) -> None:
    """Runs ``cases`` one after another on ``world`` ranks; a case with ``world`` of its own runs on the first of them.

    Raises:
        AssertionError: a rank fails or time runs out; the message has the ranks' output.
    """
    with started(world, cases, out) as ranks:
        finish(ranks, out, timeout_s)


def finish(ranks: RankParent, out: Path, timeout_s: float) -> None:
    """Waits for the end of ranks. Raises AssertionError with their output if one fails or time runs out."""
    try:
        status = ranks.wait(timeout_s)
    except subprocess.TimeoutExpired:
        status = None
    assert status == 0, f"status {status}\n" + (out / "log").read_text()[-6000:]


@contextlib.contextmanager
def started(world: int, cases: list[dict[str, Any]], out: Path) -> Iterator[RankParent]:
    """Starts ranks, and kills those that are left on exit."""
    (out / "cases.json").write_text(json.dumps(cases))
    (out / "log").touch()
    _PARENT.launch(world, out / "cases.json")
    try:
        yield _PARENT
    finally:
        _PARENT.kill()
