"""The path under test: a gateway, its Redis (AOF everysec) and a learner that consumes, each a process of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis
from runtime.children import Child
from tests.bench.sample import VOCABULARY

TOKEN = "bench-secret"
_READY_S = 60.0


class Pipeline:
    """The processes from the gateway to the learner; the client is the driver of a measurement.

    Attributes:
        redis: the server process.
        queue: settings of the run's queue.
        address: the gateway's.
        pids: name -> pid, to attribute CPU time.
    """

    def __init__(self, directory: Path, redis: EmbeddedRedis) -> None:
        self.redis = redis
        self.queue = QueueConfig(url=redis.url, run="bench")
        self._consumer = start_consumer(self.queue)
        self._gateway = _gateway(directory, self.queue)
        self.address = _address(self._gateway)
        self.pids = {"gateway": self._gateway.pid, "redis": redis.child.pid, "reader": self._consumer.pid}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._gateway.kill()
        self._consumer.kill()

    def finish(self) -> dict[str, Any]:
        """Lets the consumer take what is left; returns what it reports at the end."""
        output, _ = self._consumer.communicate(timeout=_READY_S)
        return json.loads(output)


def start_consumer(queue: QueueConfig) -> subprocess.Popen[str]:
    """Starts a learner that consumes until its standard input ends and no group waits."""
    settings = json.dumps({"url": queue.url, "run": queue.run})
    command = [sys.executable, "-m", "tests.bench.consumer", settings]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise RuntimeError("the consumer ended before it was ready")
    return process


def _gateway(directory: Path, queue: QueueConfig) -> Child:
    identities = directory / "identities.json"
    identities.write_text(json.dumps({"bench": {"tokens": [hashlib.sha256(TOKEN.encode()).hexdigest()]}}))
    settings = {
        "listen": "127.0.0.1:0",
        "identities_file": str(identities),
        "queue": {"url": queue.url, "run": queue.run},
        "limits": {"vocab_size": VOCABULARY},
    }
    file = directory / "gateway.json"
    file.write_text(json.dumps(settings))
    return Child("gateway", [sys.executable, "-m", "learner.gateway", str(file)], directory / "gateway.log")


def _address(gateway: Child) -> str:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and gateway.exit_code() is None:
        for line in gateway.log.read_text().splitlines():
            if '"gateway listening"' in line:
                return json.loads(line)["address"]
        time.sleep(0.01)
    raise RuntimeError(f"the gateway was not ready:\n{gateway.tail(20)}")
