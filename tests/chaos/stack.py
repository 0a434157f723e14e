"""Runs Redis, gateways, a learner and fleets as real processes; each may be killed and is started again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from learner.config import GatewayConfig, LearnerConfig, QueueConfig
from learner.queue import EmbeddedRedis, QueueError, imbalances, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from rollout.config import EngineConfig, WorkerConfig
from rollout.data.demo_model import write_model
from rollout.engine.server_process import Server
from runtime.children import Child
from tests.chaos.link import Address, Link, Links
from tests.chaos.member import Member
from tests.chaos.plan import Plan
from tests.chaos.power import PowerCut
from tests.chaos.producer import ProducerConfig
from tests.chaos.villains import VILLAINS
from tests.chaos.watch import Watch

REPOSITORY = Path(__file__).parents[2]
RUN = "chaos"
_TICK_S = 0.01
_VOCABULARY = 16


class Stack:
    """The processes of a plan, with their files in one directory. Call all methods from the main thread.

    Attributes:
        members: processes by name: redis, gateway-0, ..., producer-0, ..., learner, worker.
        links: TCP links by name: fleet-<gateway> between producers and a gateway, redis between everybody and Redis.
        watch: counters over the logs.
        gateway_mib: the most memory that a gateway has had while ``tick`` was called, in MiB.
        power: simulates a power cut at the machine that Redis runs on.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        self.plan = plan
        self.members: dict[str, Member] = {}
        self.links: dict[str, Link] = {}
        self.network = Links()
        self.watch = Watch(directory)
        self._engine: Server | None = None
        self._redis: EmbeddedRedis | None = None
        self._aside: list[Child] = []
        self.gateway_mib = 0.0
        self._closed = False
        self.power = PowerCut(directory / "redis/appendonlydir")
        self._environment = {**os.environ, "LEEWAY_CHILD": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        (directory / "config").mkdir(parents=True)
        write_model(directory / "model", 0)
        self._fleets = [f"fleet-{index}" for index in range(2 * plan.gateways)]
        self._tokens = {name: secrets.token_hex(8) for name in (*self._fleets, "local", *VILLAINS)}
        identities = {name: {"tokens": [hashlib.sha256(t.encode()).hexdigest()]} for name, t in self._tokens.items()}
        (directory / "identities.json").write_text(json.dumps(identities))
        self._start()

    def _start(self) -> None:
        self.members["redis"] = Member("redis", self._start_redis)
        self.links["redis"] = self.network.to(lambda: _address(self.redis_url))
        for index in range(self.plan.gateways):
            name, port = f"gateway-{index}", free_port()
            self._gateway_config(port).write(self._config(name))
            self.members[name] = Member(name, lambda name=name: self._python(name, "learner.gateway"))
            self.links[f"fleet-{index}"] = self.network.to(lambda port=port: ("127.0.0.1", port))
        self._learner_config().write(self._config("learner"))
        self.members["learner"] = Member("learner", self._start_learner)
        for index, fleet in enumerate(self._fleets):
            name = f"producer-{index}"
            self._producer_config(name, fleet, index).write(self._config(name))
            self.members[name] = Member(name, lambda name=name: self._python(name, "tests.chaos.producer"))
        if self.plan.hostile:
            self.members["villains"] = Member("villains", self._start_villains)
        if self.plan.worker != "none":
            self.use_engine(self.plan.worker)
            self.members["worker"] = Member("worker", lambda: self._python("worker", "rollout"))

    @property
    def redis_url(self) -> str:
        """URL of the Redis server itself, without the link before it."""
        assert self._redis is not None
        return self._redis.url

    def tick(self) -> None:
        """Restarts processes that have died, and reads the logs."""
        for member in self.members.values():
            member.tick()
        self.watch.poll()
        for name, member in self.members.items():
            if name.startswith("gateway"):
                self.gateway_mib = max(self.gateway_mib, most_memory_mib(member.child.pid))
        if self.plan.aof == "everysec":
            self.power.sample()

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float) -> float:
        """Waits for a condition and keeps the processes alive meanwhile; returns the seconds it took.

        Raises:
            AssertionError: the condition did not come true within ``timeout_s``.
        """
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                raise AssertionError(f"no {what} in {timeout_s:.0f} s\n{self.tails()}")
            self.tick()
            time.sleep(_TICK_S)
        return time.monotonic() - started

    def ready(self, timeout_s: float = 600.0) -> None:
        """Waits until every producer has acks and the learner trains."""
        names = [name for name in self.members if name.startswith(("producer", "worker"))]
        self.until(lambda: all(self.watch.acked(name) for name in names), "ack for every producer", timeout_s)
        self.until(lambda: self.watch.steps > 3, "training", timeout_s)

    def stop_producers(self, timeout_s: float) -> None:
        """Tells the producers to stop, and waits until each has received every ack."""
        producers = [member for name, member in self.members.items() if name.startswith("producer")]
        for member in producers:
            member.may_finish = True
        (self.directory / "stop").touch()
        self.until(lambda: all(member.finished for member in producers), "end of all producers", timeout_s)
        (self.directory / "stop").unlink()

    def add_groups(self, count: int, timeout_s: float) -> None:
        """Submits ``count`` more groups of the first fleet; all are acknowledged when this returns."""
        config = ProducerConfig.load(self._config("producer-0"))
        config.model_copy(update={"total": count, "batch": 1}).write(self._config("producer-0"))
        self.members["producer-0"].start()
        self.until(lambda: self.members["producer-0"].finished, f"acks of {count} more groups", timeout_s)

    def ledgers(self) -> list[pb.Ledger]:
        """Reads the ledgers of all fleets. Raises QueueError."""
        return read_ledgers(self.redis_url, RUN, timeout_s=5.0)

    def imbalance(self, timeout_s: float = 30.0) -> list[str]:
        """Violations of the accounting invariant, read as soon as Redis answers; empty when every ledger balances."""
        found: list[str] = []

        def asked() -> bool:
            try:
                found[:] = [line for ledger in self.ledgers() for line in imbalances(ledger)]
            except QueueError:
                return False
            return True

        self.until(asked, "answer from Redis for the ledger", timeout_s)
        return found

    def zombie(self) -> Child:
        """Freezes the learner, starts another, and returns the frozen one. The caller may thaw it; ``close`` kills it."""
        self.members["learner"].freeze()
        self._aside.append(self.members["learner"].set_aside())
        return self._aside[-1]

    def thaw(self, child: Child) -> None:
        """Sends SIGCONT to a process that ``zombie`` froze."""
        os.killpg(child.pid, signal.SIGCONT)

    def listening(self, gateway: str) -> bool:
        """Whether the gateway has bound its address since its last start."""
        return self.members[gateway].alive and '"gateway listening"' in self.members[gateway].output()

    def use_engine(self, kind: Literal["own engine", "engine beside"]) -> None:
        """Chooses the SGLang server that the worker uses from its next start on."""
        if kind == "engine beside" and self._engine is None:
            settings = EngineConfig(base_port=free_port(), refit="drain")
            self._engine = Server(settings, 0, self.directory / "model", self.directory / "logs/engine-beside.log")
        urls = [self._engine.url] if kind == "engine beside" and self._engine else []
        self._worker_config(urls).write(self._config("worker"))

    def tails(self) -> str:
        """The last lines of all logs."""
        texts = []
        for name, member in self.members.items():
            texts.append(
                f"--- {name}: {member.starts} starts, exit statuses {member.deaths[-5:]}\n{member.child.tail(8)}"
            )
        return "\n".join(texts)

    def close(self) -> None:
        """Kills every process. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for member in self.members.values():
            member.sweep()
        for child in self._aside:
            child.kill()
        if self._engine is not None:
            self._engine.kill()
        self.network.close()

    def _config(self, name: str) -> Path:
        return self.directory / "config" / f"{name}.json"

    def _python(self, name: str, module: str) -> Child:
        log = self.directory / "logs" / f"{name}.log"
        command = [sys.executable, "-m", module, str(self._config(name))]
        return Child(name, command, log, self._environment)

    def _start_redis(self) -> Child:
        self._redis = EmbeddedRedis.start(self.directory / "redis", self.plan.aof)
        return self._redis.child

    def _start_learner(self) -> Child:
        """Starts the learner's one rank without torchrun, whose own start would double the time of a restart."""
        rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        command = [sys.executable, "-m", "learner", str(self._config("learner"))]
        return Child("learner", command, self.directory / "logs/learner.log", {**self._environment, **rank, **where})

    def _start_villains(self) -> Child:
        """Starts the hostile fleets, on the first gateway; their tokens are not their own secret."""
        log, address = self.directory / "logs/villains.log", self.links["fleet-0"].address
        tokens = json.dumps({name: self._tokens[name] for name in VILLAINS})
        command = [sys.executable, "-m", "tests.chaos.villains", address, tokens]
        return Child("villains", command, log, self._environment)

    def _queue(self) -> QueueConfig:
        """Settings of the queue as processes reach it, through the link."""
        credentials = self.redis_url.rpartition("@")[0]
        return QueueConfig(url=f"{credentials}@{self.links['redis'].address}/0", run=RUN, timeout_s=2.0)

    def _gateway_config(self, port: int) -> GatewayConfig:
        plan = self.plan
        admission = {"groups_per_step": plan.groups_per_step, "max_staleness": plan.max_staleness}
        values = {
            "listen": f"127.0.0.1:{port}",
            "identities_file": self.directory / "identities.json",
            "queue": self._queue(),
            "admission": {**admission, "lease_s": plan.lease_s, "max_queued_groups": 20_000},
            "limits": {"vocab_size": _VOCABULARY, "reward_range": [0, 1]},
            "drain_s": 3.0,
            **plan.gateway,
        }
        return GatewayConfig.parse(values, "the chaos stack's gateway")

    def _learner_config(self) -> LearnerConfig:
        plan = self.plan
        values = {
            "model": self.directory / "model",
            "queue": self._queue(),
            "steps": 1_000_000,
            "groups_per_step": plan.groups_per_step,
            "max_staleness": plan.max_staleness,
            "checkpoint": {"dir": self.directory / "checkpoints", "every": plan.checkpoint_every},
            "publish": {"dir": self.directory / "weights", "every": 2, "keep": 4},
            "metrics_dir": self.directory / "metrics",
            **plan.learner,
        }
        return LearnerConfig.parse(values, "the chaos stack's learner")

    def _producer_config(self, name: str, fleet: str, index: int) -> ProducerConfig:
        return ProducerConfig(
            name=name,
            address=self.links[f"fleet-{index % self.plan.gateways}"].address,
            token=self._tokens[fleet],
            log=self.directory / "producers" / f"{name}.jsonl",
            stop=self.directory / "stop",
            leased=index >= self.plan.gateways,
            per_s=self.plan.producers_per_s,
        )

    def _worker_config(self, urls: list[str]) -> WorkerConfig:
        (self.directory / "token").write_text(self._tokens["local"])
        values = {
            "name": "worker",
            "gateway": self.links["fleet-0"].address,
            "token_file": self.directory / "token",
            "model": self.directory / "model",
            "state_dir": self.directory / "state",
            "metrics_dir": self.directory / "metrics",
            "log_dir": self.directory / "logs",
            "allowed_uris": [(self.directory / "weights").absolute().as_uri()],
            "groups_per_request": 4,
            "requests": 1,
            "engine": {"urls": urls, "base_port": free_port(), "refit": "drain"},
            "sampling": {"responses": 4, "max_new_tokens": 7},
        }
        return WorkerConfig.parse(values, "the chaos stack's worker")


def _address(url: str) -> Address:
    host, _, port = url.rpartition("@")[2].partition("/")[0].partition(":")
    return host, int(port)


def most_memory_mib(pid: int) -> float:
    """Returns the largest resident memory that a process has ever had, in MiB; 0 for one that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def free_port() -> int:
    """Finds a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
