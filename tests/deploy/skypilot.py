"""`python -m tests.deploy.skypilot`: the `run` section of deploy/skypilot/leeway.yaml on this machine, once for each node.

Nodes are loopback addresses, and the workers' engine is a stand-in (engine.py). All else is what a cluster would run.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from rollout.data.demo_model import write_model
from runtime.children import Child, stop_all
from tests.chaos.tail import Tail
from tests.deploy.slurm import LIMIT_S, NODES, ROOT, RUN, STEPS
from tests.service.servers import free_port

TASK: dict[str, Any] = yaml.safe_load((ROOT / "deploy/skypilot/leeway.yaml").read_text())


def perform(scratch: Path) -> tuple[list[int | None], list[int]]:
    """Runs the task in an empty directory; returns the exit status of each node and the learner's steps.

    Raises:
        AssertionError: it takes too long; the message has the ends of the nodes' output.
    """
    engine = free_port()
    write_model(scratch / "model", 0)
    (scratch / "run.toml").write_text(RUN.format(model=scratch / "model", steps=STEPS, engine=engine))
    ports = {name: str(free_port()) for name in ("REDIS_PORT", "GATEWAY_PORT", "RENDEZVOUS_PORT")}
    environment = {
        **os.environ, **TASK["envs"], **ports, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", "RUN": "sky",
        "RUN_FILE": str(scratch / "run.toml"), "ROOT": str(scratch), "LOCAL_DIR": str(scratch), "FAREWELL_S": "5",
        "LEARNER_PYTHON": sys.executable, "WORKER_PYTHON": sys.executable, "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        "SKYPILOT_NODE_IPS": "\n".join(NODES), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    server = Child(
        "engine", [sys.executable, "-m", "tests.deploy.engine", str(engine)], scratch / "engine.log", environment
    )
    nodes = [
        Child(f"node-{rank}", ["bash", "-c", TASK["run"]], scratch / f"node-{rank}.log",
              {**environment, "SKYPILOT_NODE_RANK": str(rank)})
        for rank in range(len(NODES))
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT_S
        for node in nodes:
            if not node.wait(deadline):
                raise AssertionError("\n".join(f"--- {one.name}\n{one.tail(20)}" for one in nodes))
    finally:
        for node in nodes:
            node.kill()
        stop_all([server], 2.0)
    rows = Tail(scratch / "sky/metrics/learner.jsonl").rows()
    return [node.exit_code() for node in nodes], [row["step"] for row in rows if row["kind"] == "step"]


def main() -> int:
    """Prints what happened; returns 1 if a node failed or steps are missing."""
    with tempfile.TemporaryDirectory(prefix="leeway-sky-") as directory:
        began = time.monotonic()
        try:
            statuses, steps = perform(Path(directory))
        except AssertionError as error:
            print(error)
            return 1
    print(f"nodes ended with {statuses}, {len(steps)} steps, {time.monotonic() - began:.0f} s")
    return int(any(statuses) or steps != list(range(1, STEPS + 1)))


if __name__ == "__main__":
    sys.exit(main())
