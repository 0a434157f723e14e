"""`python -m tests.bench.cap [STEPS]`: runs with and without the staleness bound; five minutes on two cores.

The demo with REINFORCE at a staleness of 16 and six times the demo's learning rate, constant: once with the bound on the
learning rate only observed, once capped by it. ``R_BATCH`` lies between the radii at which such runs were stable (0.18) and
collapsed (0.36), as `leeway fit-radii` estimates them. Exit status 1: the first did not collapse, or the second did.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from learner.cli.report.fit_radii import collapse
from learner.cli.run.run_history import RunHistory

R_BATCH = 0.2
LIMIT_S = 900
ENDS = 20  # steps whose mean reward stands for the beginning, and for the end
SETTINGS = {
    "learner.objective.name": "reinforce", "learner.optimizer.lr": 6e-4, "learner.optimizer.decay": "constant",
    "learner.hold_staleness": 16, "learner.max_staleness": 18, "learner.lr_control.r_batch": R_BATCH,
    "learner.parallel.tensor": 1, "learner.parallel.pipeline": 1, "gateway.listen": "127.0.0.1:50951",
    "rollout.engine.base_port": 30900, "run.status_port": 0,
}  # fmt: skip


def learn(directory: Path, mode: str, steps: int) -> list[dict[str, Any]]:
    """Runs the demo with ``learner.lr_control.mode`` = ``mode``; returns its step rows."""
    settings = SETTINGS | {"run.dir": directory, "learner.steps": steps, "learner.lr_control.mode": mode}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "learner.cli.app", "up", "configs/demo.toml", *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"leeway up ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return list(RunHistory(directory / "metrics").poll().learner.steps.values())


def main(steps: int = 150) -> int:
    collapsed = {}
    with tempfile.TemporaryDirectory() as root:
        for mode in ("observe", "cap"):
            rows = learn(Path(root) / mode, mode, steps)
            rewards = [row["reward"] for row in rows]
            collapsed[mode] = collapse([(row["step"], row["reward"]) for row in rows])
            first, last = statistics.fmean(rewards[:ENDS]), statistics.fmean(rewards[-ENDS:])
            rate = statistics.fmean(row["lr"] for row in rows)
            outcome = f"collapsed at step {collapsed[mode]}" if collapsed[mode] else "held"
            print(f"{mode:8} mean rate {rate:.1e}  reward {first:.2f} -> {last:.2f}  {outcome}", flush=True)
    return int(not collapsed["observe"] or bool(collapsed["cap"]))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
