"""Starts a real rollout worker with its own SGLang, a gateway and Redis; the test plays the learner."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from learner.config import LoraConfig, QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, TakenGroup
from leeway.v1 import rollout_pb2 as pb
from rollout.data.demo_model import write_model
from runtime.children import Child
from tests.service.fleet import TOKENS, GatewayProcess
from tests.tools.adapters import publish_adapter
from tests.tools.published import publish

ADAPTERS = LoraConfig(rank=8, alpha=2.0)  # with random matrices a larger scale leaves nothing of the model
_START_S = 240  # a server's imports on a busy machine


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Stack:
    """Redis, a gateway and a worker with its own SGLang; the test plays the learner."""

    def __init__(self, directory: Path, redis: EmbeddedRedis, gateway: GatewayProcess) -> None:
        self.directory = directory
        self.redis = redis
        self.gateway = gateway
        self.queue = LearnerQueue.open(QueueConfig(url=redis.url, run="test"))
        self.queue.begin(0, [])
        self.model = directory / "model"
        self.versions = 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        write_model(self.model, 0)
        (directory / "token").write_text(TOKENS["alpha"])
        self.worker = self._start_worker()

    def _start_worker(self) -> Child:
        values = {
            "gateway": self.gateway.address,
            "token_file": str(self.directory / "token"),
            "model": str(self.model),
            "state_dir": str(self.directory / "state"),
            "log_dir": str(self.directory / "logs"),
            "allowed_uris": [(self.directory / "weights").absolute().as_uri()],
            "groups_per_request": 16,
            "engine": {"base_port": self.port, "start_timeout_s": _START_S},
            "sampling": {"responses": 4, "max_new_tokens": 7},
        }
        path = self.directory / "worker.json"
        path.write_text(json.dumps(values))
        environment = {**os.environ, "LEEWAY_CHILD": "1"}
        return Child("worker", [sys.executable, "-m", "rollout", str(path)], self.directory / "worker.log", environment)

    def weights(self, version: int) -> Path:
        return self.directory / "weights" / f"weight_v{version:06d}"

    def publish(self, damage: Callable[[Path], None] | None = None) -> int:
        """Publishes new random weights; returns the version."""
        version, self.versions = self.versions, self.versions + 1
        source = self.directory / f"source-{version}"
        write_model(source, seed=100 + version)
        policy = publish(source, self.directory / "weights", version)
        if damage is not None:
            damage(self.weights(version))
        self.queue.publish(policy)
        self.queue.report(version, version, 0)
        shutil.rmtree(source)
        return version

    def publish_adapter(self) -> int:
        """Publishes adapters of the model, drawn at random; returns the version."""
        version, self.versions = self.versions, self.versions + 1
        self.queue.publish(publish_adapter(self.model, self.directory / "weights", version, ADAPTERS))
        self.queue.report(version, version, 0)
        return version

    def take(self) -> list[TakenGroup]:
        """Takes and commits all waiting groups, so that the worker makes others."""
        step = max(0, self.versions - 1)
        taken = self.queue.take(10_000, step, 10_000)
        self.queue.commit(step, [group.ref for group in taken])
        return taken

    async def groups(self, of_version: int) -> list[pb.Group]:
        """Waits for groups of a version, and returns them."""
        found: list[pb.Group] = []

        def some() -> bool:
            found.extend(taken.group for taken in self.take() if versions_of(taken.group) == {of_version})
            return bool(found)

        await self.until(some, f"groups of version {of_version}")
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.directory / "metrics/worker-0.jsonl"
        rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
        return [row for row in rows if row["kind"] == kind]

    def family(self) -> list[psutil.Process]:
        """The server's processes: the guard, the server, and what the server forked."""
        return psutil.Process(self.worker.pid).children(recursive=True)

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = _START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.worker.exit_code() is None, f"the worker ended:\n{self.worker.tail()}"
            assert time.monotonic() < deadline, f"no {what} in {timeout_s:.0f} s:\n{self.worker.tail()}"
            await asyncio.sleep(0.05)

    async def serving(self, version: int) -> None:
        await self.until(
            lambda: any(row["version"] == version for row in self.events("refit")), f"refit to version {version}"
        )


def versions_of(group: pb.Group) -> set[int]:
    return {span.version for response in group.responses for span in response.spans}
