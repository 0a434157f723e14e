"""`python -m tests.deploy.slurm`: deploy/slurm/leeway.sbatch from end to end on this machine, without Slurm.

`srun` and `scontrol` are stand-ins (slurm_standin.py), nodes are loopback addresses, and the workers' engine is a stand-in
too (engine.py). All else is what a cluster would run: Redis, gateway, worker, a learner of the demo's model over two nodes.
The job gets the signal of its time limit, writes a checkpoint and asks to be requeued; started again, it makes its steps.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.data.demo_model import write_model
from runtime.children import Child, stop_all
from tests.chaos.account import Account
from tests.chaos.tail import Tail
from tests.deploy.slurm_standin import write_programs
from tests.service.servers import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm" / "leeway.sbatch"
NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")  # two for the learner, one for the worker
STEPS = 30
LIMIT_S = 240.0
RUN = """
[run]
name = "slurm"
status_port = 0
[model]
path = "{model}"
[learner]
steps = {steps}
groups_per_step = 4
max_staleness = 4
micro_batch_tokens = 1024
[learner.refill]
enabled = false
[learner.checkpoint]
every = 1000
[rollout]
requests = 2
[rollout.sampling]
responses = 4
max_new_tokens = 7
[rollout.engine]
urls = ["http://127.0.0.1:{engine}"]
device = "cpu"
[rollout.task]
name = "sort"
"""


@dataclass(frozen=True)
class Shown:
    """What both starts of the job have left.

    Attributes:
        statuses: exit status of each.
        requeued: numbers of the jobs that asked to run again.
        starts: the learner's rows of its starts.
        steps: (epoch, step) of each step that the learner made.
        account: which groups were acknowledged and trained.
        output: what the job printed.
    """

    statuses: list[int]
    requeued: list[str]
    starts: list[dict[str, Any]]
    steps: list[tuple[int, int]]
    account: Account
    output: str


def perform(scratch: Path) -> Shown:
    """Runs the job twice in an empty directory. Raises AssertionError with the ends of the logs when it takes too long."""
    engine = free_port()
    write_model(scratch / "model", 0)
    write_programs(scratch / "bin")
    (scratch / "run.toml").write_text(RUN.format(model=scratch / "model", steps=STEPS, engine=engine))
    rows = Tail(scratch / "run/metrics/learner.jsonl")
    seen: list[dict[str, Any]] = []

    def steps() -> list[dict[str, Any]]:
        seen.extend(rows.rows())
        return [row for row in seen if row["kind"] == "step"]

    environment = _environment(scratch)
    server = Child(
        "engine", [sys.executable, "-m", "tests.deploy.engine", str(engine)], scratch / "engine.log", environment
    )
    statuses: list[int] = []
    try:
        job = _submit(scratch, environment, 0)
        try:
            _until(job, lambda: len(steps()) >= 3, scratch)
            job.process.send_signal(signal.SIGUSR1)  # to the batch shell alone, as --signal=B:USR1 does
            statuses.append(_end(job, scratch))
        finally:
            job.kill()
        job = _submit(scratch, environment, 1)
        try:
            statuses.append(_end(job, scratch))
        finally:
            job.kill()
    finally:
        stop_all([server], 2.0)
    made = [(row["epoch"], row["step"]) for row in steps()]
    requeued = (scratch / "requeued").read_text().split() if (scratch / "requeued").exists() else []
    starts = [row for row in seen if row["kind"] == "start"]
    output = (scratch / "job.log").read_text(errors="replace")
    return Shown(statuses, requeued, starts, made, Account.read(scratch / "run", {"worker-0": "local"}), output)


def _environment(scratch: Path) -> dict[str, str]:
    ports = {name: str(free_port()) for name in ("REDIS_PORT", "GATEWAY_PORT", "RENDEZVOUS_PORT")}
    return {
        **os.environ,
        **ports,
        "PATH": f"{scratch / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
        "LEARNER_NODES": "2",
        "RANKS_PER_NODE": "1",
        "RUN_DIR": str(scratch / "run"),
        "LOCAL_DIR": str(scratch),
        "STOP_S": "60",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "slurm",
        "SLURM_JOB_NODELIST": ",".join(NODES),
        "STANDIN_REQUEUED": str(scratch / "requeued"),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _submit(scratch: Path, environment: dict[str, str], restarts: int) -> Child:
    command = ["bash", str(SCRIPT), str(scratch / "run.toml"), "learner.optimizer.lr=1e-3"]
    return Child("job", command, scratch / "job.log", {**environment, "SLURM_RESTART_COUNT": str(restarts)})


def _end(job: Child, scratch: Path) -> int:
    _until(job, lambda: job.exit_code() is not None, scratch)
    status = job.exit_code()
    assert status is not None
    return status


def _until(job: Child, done: Callable[[], bool], scratch: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not done():
        if job.exit_code() is not None or time.monotonic() > deadline:
            logs = [scratch / "job.log", *sorted((scratch / "run/logs").glob("*.log"))]
            tails = "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)
            raise AssertionError(f"the job ended with {job.exit_code()}, or takes too long\n{tails}")
        time.sleep(0.1)


def main() -> int:
    """Prints what happened; returns 1 if the job did not come to its end."""
    with tempfile.TemporaryDirectory(prefix="leeway-slurm-") as directory:
        began = time.monotonic()
        try:
            shown = perform(Path(directory))
        except AssertionError as error:
            print(error)
            return 1
    print(shown.output)
    first, second = (row["resumed_step"] for row in shown.starts)
    print(f"{len(shown.steps)} steps, resumed from {first} and {second}, requeued {shown.requeued}, {shown.statuses}")
    print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
