"""A rollout worker with agents, two SGLang servers, a gateway and Redis; whoever holds it takes the groups."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import psutil

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, ledgers_in
from leeway.v1 import rollout_pb2 as pb
from rollout.data.tokenizer import Tokenizer
from runtime.children import Child
from tests.chaos.agent_account import GUARD, command_of, family, generated, marked, running
from tests.chaos.member import Member
from tests.chaos.stack import free_port
from tests.chaos.tail import Tail
from tests.e2e.live import free_ports
from tests.service.fleet import RUN, TOKENS, GatewayProcess
from tests.tools.chain_model import END, TOOL_TABLE, write_chain_model
from tests.tools.published import publish
from tests.tools.scrape import Scrape

Kind = Literal["agent", "host", "engine", "worker"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GROUP = 4  # responses of a group
PROGRAM = Path(__file__).with_name("agent_program.py")
_WORDS = [f" word{number}" for number in range(20)]
_TABLE = {**TOOL_TABLE, "The tool says": _WORDS, **{word: [*_WORDS, END] for word in _WORDS}}  # 20 words in the mean
_TICK_S, _SCRAPE_S = 0.1, 0.5
_START_S = 300.0  # a server's imports on a busy machine
_PROGRAMS = {"agent": PROGRAM.name, "host": "rollout.environments.host", "engine": "sglang.launch_server"}


class AgentStack:
    """A worker whose task is an agent command, and what stands round it. Call all methods from the main thread.

    Attributes:
        groups: those that arrived, in order.
        worker: started again when it has died.
        consuming: whether groups are taken; otherwise the worker soon has no lease for more.
    """

    def __init__(self, directory: Path, episodes: int = 24) -> None:
        self.directory = directory
        self.groups: list[pb.Group] = []
        self.consuming = True
        self._seen: set[psutil.Process] = set()
        self._before, self._now = Counter[str](), Counter[str]()
        self._answers, self._next_scrape, self._needed_before = False, 0.0, 0
        self._versions = 0
        self._closed = False
        write_chain_model(directory / "model", _TABLE)
        (directory / "token").write_text(TOKENS["alpha"])
        asks = [{"messages": [{"role": "user", "content": f"What is 1 + {number}?"}]} for number in range(1000)]
        (directory / "prompts.jsonl").write_text("".join(json.dumps(ask) + "\n" for ask in asks))
        self.redis = EmbeddedRedis.start(directory / "redis", "everysec")
        config = QueueConfig(url=self.redis.url, run=RUN)
        self._config = config
        self._queue = LearnerQueue.open(config)
        self._queue.begin(0, [])
        self._gateway = GatewayProcess(
            directory, self.redis.url, admission={"groups_per_step": 2, "max_staleness": 8},
            limits={"vocab_size": Tokenizer(directory / "model").vocab_size, "group_size": [GROUP, GROUP]},
        )  # fmt: skip
        asyncio.run(self._gateway.ready())
        self.publish()
        self._status = f"127.0.0.1:{free_port()}"
        self._port = free_ports(2)
        self._episodes = episodes
        self.use_engines(2)
        self.worker = Member("worker", self._launch)

    def use_engines(self, count: int) -> None:
        """Sets the number of SGLang servers, at most two, from the worker's next start on."""
        directory = self.directory
        values = {
            "gateway": self._gateway.address, "token_file": str(directory / "token"), "model": str(directory / "model"),
            "state_dir": str(directory / "state"), "log_dir": str(directory / "logs"),
            "allowed_uris": [(directory / "weights").absolute().as_uri()], "status": {"listen": self._status},
            "engine": {"count": count, "base_port": self._port, "start_timeout_s": _START_S},
            "sampling": {"responses": GROUP, "max_new_tokens": 96},
            "task": {
                "name": "agent", "command": ["python", str(PROGRAM), str(directory)],
                "prompts": str(directory / "prompts.jsonl"), "processes": 2, "episodes": self._episodes,
            },
        }  # fmt: skip
        (directory / "worker.json").write_text(json.dumps(values))

    def _launch(self) -> Child:
        environment = {**os.environ, "LEEWAY_CHILD": "1", "LEEWAY_CHAOS": str(self.directory)}
        command = [sys.executable, "-m", "rollout", str(self.directory / "worker.json")]
        return Child("worker", command, self.directory / "worker.log", environment)

    def publish(self) -> None:
        """Publishes the weights once more, as a new version, which the engines load while they generate."""
        policy = publish(self.directory / "model", self.directory / "weights", self._versions)
        self._queue.publish(policy)
        self._queue.report(self._versions, self._versions, 0)
        self._versions += 1

    def tick(self, restart: bool = True) -> None:
        """Takes and commits groups, reads the worker's metrics, and starts it again if it has died."""
        if restart:
            self.worker.tick()
        if self.consuming:
            self.take()
        if time.monotonic() >= self._next_scrape:
            self._next_scrape = time.monotonic() + _SCRAPE_S
            self.scrape()

    def take(self) -> None:
        """Takes and commits all groups that wait."""
        while taken := self._queue.take(64, self._versions, 10_000):
            self._queue.commit(self._versions, [one.ref for one in taken])
            self.groups += [one.group for one in taken]

    def scrape(self) -> None:
        """Reads the worker's metrics; a worker that does not answer keeps those that it had."""
        try:
            samples = Scrape(self._status).samples
        except (OSError, ValueError):
            self._answers = False
            return
        self._answers = True
        self._now = Counter({_name(sample.name, sample.labels): sample.value for sample in samples if sample.value > 0})

    def totals(self) -> Counter[str]:
        """Metrics of all lives of the worker, as last read: "name" or "name/label", without "leeway_worker_"."""
        return self._before + self._now

    def serving(self) -> bool:
        """Whether the worker answers and one of its engines serves the current version."""
        return self._answers and self._now["ready"] > 0

    def serving_engines(self) -> int:
        """How many engines of the worker serve."""
        return int(self._now["engines/serving"]) if self._answers else 0

    def idle(self) -> bool:
        """Whether the worker answers and nothing is under way."""
        busy = [name for name in self._now if name.startswith(("engine_responses", "waiting_resp", "unacked"))]
        return self._answers and not busy and not self.processes("agent")

    def processes(self, kind: Kind) -> list[psutil.Process]:
        """Returns the worker's processes of a kind, without their guards."""
        if kind == "worker":
            return [psutil.Process(self.worker.child.pid)]
        found = running(family(psutil.Process(self.worker.child.pid))[1:]) if self.worker.alive else []
        commands = [(one, command_of(one)) for one in found]
        return [one for one, command in commands if _PROGRAMS[kind] in command and GUARD not in command]

    def kill(self, kind: Kind, rng: random.Random) -> list[psutil.Process]:
        """Kills one process of a kind with SIGKILL, and returns those that must not outlive it and have just been there.

        Raises:
            IndexError: there is none now.
        """
        self.see()
        victim = rng.choice(self.processes(kind))
        if kind != "worker":
            doomed = family(victim)
            victim.kill()
            return doomed
        self.scrape()
        self.worker.kill()
        self.take()
        used = self.needed() - self._needed_before
        unused = self._now["tokens_received"] - used - sum(by_label(self._now, "tokens_discarded").values())
        self._before += self._now + Counter({"tokens_discarded/worker_killed": unused})
        self._now, self._answers, self._needed_before = Counter(), False, self.needed()
        return self.left()

    def see(self) -> None:
        """Remembers the worker's processes: what is left of them at its end is found even if nobody is its parent."""
        if self.worker.alive:
            self._seen.update(family(psutil.Process(self.worker.child.pid)))

    def left(self) -> list[psutil.Process]:
        """Returns the processes that ever were a worker's and still run. Call it while no worker runs."""
        return running({*self._seen, *marked(f"LEEWAY_CHAOS={self.directory}")})

    def acked(self) -> list[str]:
        """Ids of groups whose acceptance the worker has logged."""
        return [row["group_id"] for row in Tail(self.directory / "state/worker-0.acked.jsonl").rows()]

    def ledger(self) -> pb.Ledger:
        """Reads the fleet's ledger."""
        (ledger,) = ledgers_in(self._config)
        return ledger

    def needed(self) -> int:
        """Number of generated tokens in all groups that arrived."""
        return sum(map(generated, self.groups))

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = _START_S, restart: bool = True) -> None:
        """Waits for a condition and keeps everything going meanwhile. Raises AssertionError when it does not come true."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"no {what} in {timeout_s:.0f} s:\n{self.worker.child.tail(15)}"
            self.tick(restart)
            time.sleep(_TICK_S)

    def close(self) -> None:
        """Kills every process. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.worker.sweep()
        self._gateway.child.kill()
        self._queue.close()
        self.redis.stop()


def by_label(counts: Counter[str], name: str) -> dict[str, float]:
    """Returns the values of a metric by its label."""
    return {key.partition("/")[2]: value for key, value in counts.items() if key.startswith(f"{name}/")}


def _name(name: str, labels: dict[str, str]) -> str:
    return "/".join([name.removeprefix("leeway_worker_").removesuffix("_total"), *labels.values()])
