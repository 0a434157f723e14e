"""`python -m tests.bench.evaluation [STEPS]`: what an evaluation during training costs the learner. The demo, on one rank.

Three runs of `leeway up configs/demo.toml`: without evaluation; with one every fifth version; and without one beside as many
seconds of another program's work as the evaluator did, which takes the cores away just the same. CPU seconds are those of the
learner's processes, between steps FIRST and STEPS.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench.refill import steps, stop
from tests.e2e.live import REPOSITORY, LiveRun, free_ports

FIRST, STEPS = 20, 120
LIMIT_S = 600.0
COLUMNS = ("run", "learner CPU s/step", "wall s/step", "train_s", "wait_s", "evaluations", "other CPU s/s")


def measure(directory: Path, last: int, every: int, busy: float) -> tuple[list[str], float]:
    """Makes one run.

    Args:
        directory: the run's.
        last: number of steps.
        every: versions between evaluations; 0: none.
        busy: share of a core that another program uses meanwhile.

    Returns:
        Its line of the table, and the share of a core that the evaluator used.
    """
    port = free_ports(64)
    settings = {
        "run.dir": directory, "run.name": directory.name, "gateway.listen": f"127.0.0.1:{port}",
        "rollout.engine.base_port": port + 1, "run.status_port": port + 10, "eval.engine.base_port": port + 2,
        "learner.parallel.tensor": 1, "learner.parallel.pipeline": 1, "learner.steps": last + 5,
        "eval.every": every, "eval.first": "false", "eval.final": "false", "eval.at_end": "false",
    }  # fmt: skip
    command = [sys.executable, "-m", "learner.cli.app", "up", "configs/demo.toml"]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    output = directory.with_suffix(".out")
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, text=True)
    run = LiveRun(directory, process, output)
    work = multiprocessing.Process(target=spin, args=(busy,), daemon=True)
    try:
        run.wait_until(lambda: run.steps() >= FIRST, "first steps", LIMIT_S)
        if busy:
            work.start()
        before, other, began = cpu_s(run, "learner"), cpu_s(run, "evaluator"), time.monotonic()
        run.wait_until(lambda: run.steps() >= last, "last step", LIMIT_S)
        used, seconds = cpu_s(run, "learner") - before, time.monotonic() - began
        other = (cpu_s(run, "evaluator") - other) / seconds
    finally:
        stop(process)
        with contextlib.suppress(AttributeError, AssertionError):
            work.kill()
    rows = [row for row in steps(run) if FIRST < row["step"] <= last]
    cells = [f"{used / len(rows):.3f}", f"{seconds / len(rows):.3f}", median(rows, "train_s"), median(rows, "wait_s")]
    return [*cells, str(len(run.rows("evaluations.jsonl"))), f"{max(other, busy):.2f}"], other


def median(rows: list[dict[str, Any]], name: str) -> str:
    """The median of a field."""
    return f"{statistics.median(row[name] for row in rows):.3f}"


def cpu_s(run: LiveRun, name: str) -> float:
    """CPU seconds so far of a process of the run and of all that it has started; 0 if it is not there."""
    try:
        process = psutil.Process(run.pid(name))
        family = [process, *process.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in family)
    except (StopIteration, psutil.NoSuchProcess):
        return 0.0


def spin(share: float) -> None:
    """Uses a share of a core until it is killed."""
    while True:
        end = time.process_time() + 0.05 * share
        while time.process_time() < end:
            pass
        time.sleep(0.05 * max(0.0, 1 - share))


def main(last: int) -> None:
    """Makes the three runs and prints a table."""
    print("  ".join(f"{name:>20}" for name in COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as root:
        evaluator = 0.0
        for name, every in (("without", 0), ("evaluating", 5), ("beside other work", 0)):
            busy = evaluator if name.startswith("beside") else 0.0
            cells, used = measure(Path(root) / name.replace(" ", "-"), last, every, busy)
            evaluator = max(evaluator, used)
            print("  ".join(f"{cell:>20}" for cell in (name, *cells)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
