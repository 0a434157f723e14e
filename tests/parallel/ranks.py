"""Starts torchrun for tests: runs the cases of tests/parallel/worker.py on a few ranks of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "worker.py"


def run_cases(world: int, cases: list[dict[str, Any]], out: Path, timeout_s: float = 540) -> None:
    """Runs ``cases`` one after another on ``world`` ranks; a case with ``world`` of its own runs on the first of them.

    Raises:
        AssertionError: a rank fails or time runs out; the message has the ranks' output.
    """
    with started(world, cases, out) as process:
        try:
            status = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            status = None
    assert status == 0, f"status {status}\n" + (out / "log").read_text()[-6000:]


@contextlib.contextmanager
def started(world: int, cases: list[dict[str, Any]], out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs torchrun, and ends it and its ranks on exit. Each rank writes its process id to <out>/<rank>.pid."""
    (out / "cases.json").write_text(json.dumps(cases))
    root = WORKER.parents[2]
    path = [str(root), str(root / "proto"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    with (out / "log").open("w") as log:
        process = subprocess.Popen(
            [*launcher, str(WORKER), str(out / "cases.json")], env=environment, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()  # torchrun ends its ranks, which have sessions of their own
            try:
                process.wait(timeout=60)
            finally:
                kill(out)


def kill(out: Path) -> None:
    """Sends SIGKILL to every rank that is still running."""
    for file in out.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
        file.unlink()
