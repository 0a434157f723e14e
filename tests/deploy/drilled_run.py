"""A real run for restore drills: `leeway up` with its Redis, gateway and learner, and two producers as its fleets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learner.cli.run.identities import add_fleet
from learner.cli.run.queue import queue_of
from learner.cli.run.run_directory import RunDirectory
from learner.queue import ledgers_in
from leeway.v1 import rollout_pb2 as pb
from runtime.children import Child
from tests.chaos.producer import ProducerConfig
from tests.chaos.stack import free_port
from tests.chaos.tail import Tail

_LIMIT_S = 300.0
_RUN_FILE = """
run = {{name = "drill", dir = "{directory}", status_port = 0}}
model = {{path = "demo"}}
gateway = {{listen = "127.0.0.1:{port}"}}
[learner]
steps = 1000000
groups_per_step = 8
max_staleness = 32
micro_batch_tokens = 4096
stop_grace_s = 20
checkpoint = {{every = 4}}
publish = {{every = 2}}
[rollout]
workers = 0
sampling = {{responses = 4}}
task = {{name = "sort"}}
"""


class DrilledRun:
    """The run in ``root``; ``close`` leaves no process behind. Call all methods from the main thread.

    Attributes:
        run: its directory.
    """

    def __init__(self, root: Path) -> None:
        self.run = RunDirectory.at(root / "run")
        self._root = root
        self._port = free_port()
        (root / "run.toml").write_text(_RUN_FILE.format(directory=self.run.root, port=self._port))
        self._producers: list[Child] = []
        self._up = self._leeway("up", str(root / "run.toml"))
        self.until(self.run.identities.is_file, "identities")
        for index in range(2):
            self._start_producer(f"fleet-{index}")

    def resume(self, directory: Path | None = None) -> None:
        """Lets the run go on with `leeway up DIR --resume`, in another directory if one is given."""
        self.run = RunDirectory.at(directory or self.run.root)
        self._up = self._leeway("up", str(self.run.root), "--resume")

    def kill(self) -> None:
        """Kills everything that `leeway up` has started, as a machine that fails does."""
        self._up.kill()

    def command(self, *arguments: str, status: int = 0) -> str:
        """Runs `leeway`; returns what it prints. Raises AssertionError if it ends with another status."""
        command = [sys.executable, "-m", "learner.cli.app", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_S, env=os.environ | {"COLUMNS": "200"}
        )
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done.stdout

    def trains(self, steps: int) -> None:
        """Waits for so many steps more; starts the run again if it has ended."""
        before = len(self.rows("step"))

        def made() -> bool:
            if self._up.exit_code() is not None:
                self.resume()
            return len(self.rows("step")) >= before + steps

        self.until(made, f"{steps} steps")

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Rows of learner.jsonl."""
        return [row for row in Tail(self.run.metrics / "learner.jsonl").rows() if row["kind"] == kind]

    def ledgers(self) -> list[pb.Ledger]:
        """The ledgers of all fleets."""
        with queue_of(self.run) as config:
            return ledgers_in(config)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Waits for a condition. Raises AssertionError when it does not come true."""
        end = time.monotonic() + _LIMIT_S
        while not condition():
            assert time.monotonic() < end, f"no {what} in {_LIMIT_S:.0f} s\n{self._up.tail(30)}"
            time.sleep(0.1)

    def close(self) -> None:
        """Ends every process."""
        for child in [self._up, *self._producers]:
            child.kill()

    def _leeway(self, *arguments: str) -> Child:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return Child("up", [sys.executable, "-m", "learner.cli.app", *arguments], self._root / "up.log", environment)

    def _start_producer(self, name: str) -> None:
        values = {
            "name": name,
            "address": f"127.0.0.1:{self._port}",
            "token": add_fleet(self.run, name) or "",
            "log": str(self._root / f"{name}.jsonl"),
            "stop": str(self._root / "stop"),
            "leased": False,
            "per_s": 12.0,
        }
        ProducerConfig.parse(values, name).write(self._root / f"{name}.json")
        command = [sys.executable, "-m", "tests.chaos.producer", str(self._root / f"{name}.json")]
        self._producers.append(Child(name, command, self._root / f"{name}.log"))
