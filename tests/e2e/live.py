"""Starts and observes a real run on this machine: Redis, gateway, SGLang and Megatron under `leeway up`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def free_ports(count: int) -> int:
    """Finds ``count`` free ports in a row below those of outgoing connections, and returns the first."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        first = random.randrange(10_000, lowest - count)
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            for port in range(first, first + count):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    pytest.fail(f"no {count} free ports in a row")


@dataclass
class LiveRun:
    """A `leeway up` process and the directory it fills."""

    directory: Path
    process: subprocess.Popen[str]
    output: Path
    killed: list[str] = field(default_factory=list)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Whole rows of a metrics file; a half-written last line is left out."""
        path = self.directory / "metrics" / name
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]

    def steps(self) -> int:
        return max((row["step"] for row in self.rows("learner.jsonl") if row["kind"] == "step"), default=0)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Waits for a condition. Raises AssertionError with the run's output if the run ends, or the time is over, first."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.output.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"no {what} in {timeout_s:.0f} s:\n{self.output.read_text()[-4000:]}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)

    def finish(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run did not end in {timeout_s:.0f} s:\n{self.output.read_text()[-4000:]}")

    def pid(self, name: str) -> int:
        """Process id of "gateway", "learner", "worker-0" or "redis", as the supervisor knows it now."""
        processes = json.loads((self.directory / "state" / "processes.json").read_text())
        return next(item["pid"] for item in processes if item["name"] == name)

    def kill(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGKILL)
        self.killed.append(name)
