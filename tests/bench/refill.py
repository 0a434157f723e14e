"""`python -m tests.bench.refill [TARGET] [SEED ...]`: time to a given reward on `sort`, with and without `learner.refill`.

Each run is `leeway up configs/demo.toml` on one learner rank, without evaluation. It is stopped when the mean reward of ten
steps has reached TARGET (0.75), or has not after all steps of the demo. Seconds and steps are counted from the first step.
The reward is that of all groups taken, replaced ones included, so that both kinds of run are measured alike. Seeds: 0, 1, 2.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from tests.e2e.live import REPOSITORY, LiveRun, free_ports

TARGET, SEEDS = 0.75, (0, 1, 2)
WINDOW = 10  # steps whose mean reward is compared with the target
LIMIT_S = 600.0
END_S = 60.0
COLUMNS = ("seed", "refill", "reached", "s", "steps", "s/step", "groups/step", "informative/step", "skipped", "reward")


@dataclass(frozen=True)
class Result:
    """What one run has come to, up to the step in which it reached the target or to its last one."""

    seed: int
    refill: bool
    reached: bool
    rows: list[dict[str, Any]]  # of its steps
    skipped: int

    def cells(self) -> tuple[str, ...]:
        """The run's line of the table, in the order of COLUMNS."""
        seconds, last = self.rows[-1]["time"] - self.rows[0]["time"], self.rows[-WINDOW:]
        return (
            str(self.seed), "on" if self.refill else "off", "yes" if self.reached else "no", f"{seconds:.1f}",
            str(len(self.rows)), f"{seconds / max(1, len(self.rows) - 1):.3f}",
            f"{mean(row['groups'] for row in self.rows):.1f}", f"{mean(row['groups_informative'] for row in last):.1f}",
            str(self.skipped), f"{reward(last):.3f}",
        )  # fmt: skip


def reward(rows: Sequence[dict[str, Any]]) -> float:
    """Mean reward of steps; one without a scored response is left out."""
    return mean([row["reward"] for row in rows if row["reward"] is not None] or [0.0])


def crossing(rows: Sequence[dict[str, Any]], target: float) -> int | None:
    """Index of the first step at which the mean reward of the last ten has reached the target; None if none has."""
    ends = range(WINDOW, len(rows) + 1)
    return next((end - 1 for end in ends if reward(rows[end - WINDOW : end]) >= target), None)


def measure(directory: Path, seed: int, refill: bool, target: float) -> Result:
    """Runs the demo until it reaches the target, and stops it. Raises SystemExit with its output if it fails."""
    port = free_ports(64)
    settings = {
        "run.dir": directory, "run.name": directory.name, "run.seed": seed, "gateway.listen": f"127.0.0.1:{port}",
        "rollout.engine.base_port": port + 1, "run.status_port": port + 10, "eval.engine.base_port": port + 2,
        "eval.first": "false", "eval.final": "false",
        "learner.parallel.tensor": 1, "learner.parallel.pipeline": 1, "learner.refill.enabled": str(refill).lower(),
    }  # fmt: skip
    command = [sys.executable, "-m", "learner.cli.app", "up", "configs/demo.toml"]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    output = directory.with_suffix(".out")
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, text=True)
    run, deadline = LiveRun(directory, process, output), time.monotonic() + LIMIT_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if crossing(steps(run), target) is not None:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
    finally:
        stop(process)
    rows = steps(run)
    if not rows:
        raise SystemExit(f"no step was made:\n{output.read_text()[-4000:]}")
    end = crossing(rows, target)
    rows = rows[: len(rows) if end is None else end + 1]
    events = [row for row in run.rows("learner.jsonl") if row["kind"] == "skipped" and row["step"] <= rows[-1]["step"]]
    return Result(seed, refill, end is not None, rows, len(events))


def steps(run: LiveRun) -> list[dict[str, Any]]:
    """Rows of the run's steps."""
    return [row for row in run.rows("learner.jsonl") if row["kind"] == "step"]


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a run as Ctrl-C does."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(target: float, seeds: Sequence[int]) -> None:
    """Measures every seed with and without refill, one run after the other, and prints a table."""
    print(f"mean reward of {WINDOW} steps >= {target:g}\n" + "  ".join(f"{name:>16}" for name in COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as root:
        for seed in seeds:
            for refill in (False, True):
                found = measure(Path(root) / f"seed{seed}-{'on' if refill else 'off'}", seed, refill, target)
                print("  ".join(f"{cell:>16}" for cell in found.cells()), flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(float(arguments[0]) if arguments else TARGET, [int(seed) for seed in arguments[1:]] or SEEDS)
