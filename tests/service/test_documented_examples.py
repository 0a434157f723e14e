"""The fleets of README and of the SDK's docstrings, as they stand, train a run to its end at a real gateway."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, TOKENS, GatewayProcess, eventually, valid_group
from tests.tools.documented import block, names_of

Start = Callable[..., Awaitable[GatewayProcess]]
GROUPS, STEPS = 10, 3  # of a step: more than the examples lease at once, so that one lease a version stalls
LIMIT_S = 120.0


class Engine:
    """What the examples leave to their reader: weights, prompts, samples. The asyncio examples await its methods."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.loaded: list[int] = []
        self.first = asyncio.Event()

    def prompt(self) -> tuple[str, list[int]]:
        return "p", [1, 2, 3]

    async def load(self, policy: pb.Policy) -> None:
        self.version = policy.version
        self.loaded.append(policy.version)
        self.first.set()

    async def sample(self, prompt: list[int]) -> tuple[list[int], int, float]:
        await self.first.wait()
        assert self.version is not None
        return [7, 8], self.version, 1.0

    async def group(self) -> pb.Group:
        await self.first.wait()
        assert self.version is not None
        return valid_group(self.version)


class BlockingEngine:
    """What the blocking example leaves to its reader."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.loaded: list[int] = []

    def prompt(self) -> tuple[str, list[int]]:
        return "p", [1, 2, 3]

    def load(self, policy: pb.Policy) -> None:
        self.version = policy.version
        self.loaded.append(policy.version)

    def sample(self, prompt: list[int]) -> tuple[list[int], float]:
        return [7, 8], 1.0


def learn(url: str, stop: threading.Event) -> int:
    """Takes and commits the groups of each step, publishes a version after it, and ends the run. Returns how many it took."""
    learner = LearnerQueue.open(QueueConfig(url=url, run=RUN))
    try:
        learner.begin(0, [])
        trained = 0
        for step in range(1, STEPS + 1):
            taken = []
            while len(taken) < GROUPS and not stop.is_set():
                taken += learner.take(GROUPS - len(taken), step - 1, 100)
            learner.commit(step, [group.ref for group in taken])
            learner.publish(pb.Policy(version=step, step=step, epoch=learner.epoch, uri=f"file:///w/{step}"))
            learner.report(step, step, 0)
            trained += len(taken)
        learner.end()
        return trained
    finally:
        learner.close()


@pytest.mark.parametrize(
    ("path", "engine", "lines"),
    [
        ("README.md", Engine, "async def fleet("),
        ("rollout/client/__init__.py", Engine, "async def fleet("),
        ("rollout/client/blocking.py", BlockingEngine, "def fleet("),
    ],
)
async def test_a_documented_fleet_trains_a_run_to_its_end(
    redis_server: EmbeddedRedis, start_gateway: Start, path: str, engine: Callable[[], Any], lines: str
):
    gateway = await start_gateway(admission={"groups_per_step": GROUPS, "max_staleness": 1})
    fleet, used, stop = names_of(block(path, lines))["fleet"], engine(), threading.Event()
    learning = asyncio.create_task(asyncio.to_thread(learn, redis_server.url, stop))
    arguments = (gateway.address, TOKENS["alpha"], used)
    running = fleet(*arguments) if engine is Engine else asyncio.to_thread(fleet, *arguments)
    try:
        await asyncio.wait_for(running, LIMIT_S)
        assert await asyncio.wait_for(learning, LIMIT_S) == GROUPS * STEPS
    finally:
        stop.set()
    async with gateway.connect() as asking:
        ledger = await eventually(asking.ledger, lambda ledger: ledger.trained == GROUPS * STEPS)
    assert ledger.rejected == 0
    assert used.loaded == sorted(set(used.loaded))
    assert len(used.loaded) > 1  # a later version was loaded, and leases went on under each
