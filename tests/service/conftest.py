"""Fixtures of the service tests: real servers, one per test with its own data. A server starts in some 20 ms."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, GatewayQueue, LearnerQueue
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, GatewayProcess
from tests.tools.refuse import missing, needs

# A second server, beside the bundled Valkey: Redis 7 is what Debian 12 has.
SYSTEM_REDIS = os.environ.get("LEEWAY_TEST_REDIS") or shutil.which("redis-server")
SERVERS = [
    pytest.param(None, id="bundled"),
    pytest.param(
        SYSTEM_REDIS,
        id="system",
        marks=needs(None if SYSTEM_REDIS else missing("redis-server")),
    ),
]


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """The bundled Valkey server."""
    yield from _served(tmp_path / "redis", None)


@pytest.fixture(params=SERVERS)
def any_redis(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedRedis]:
    """The bundled Valkey server, and the redis-server of LEEWAY_TEST_REDIS or of PATH where there is one."""
    yield from _served(tmp_path / "redis", request.param)


def _served(directory: Path, binary: str | None) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis.start(directory, binary=Path(binary) if binary else None)
    yield server
    server.stop()


@pytest.fixture
def config(any_redis: EmbeddedRedis) -> QueueConfig:
    """Configuration of a queue on ``any_redis``."""
    return QueueConfig(url=any_redis.url, run=RUN, timeout_s=2.0)


@pytest.fixture
async def gateway_queue(config: QueueConfig) -> AsyncIterator[GatewayQueue]:
    """Gateway's side of ``config``'s queue."""
    queue = GatewayQueue(config, quarantine_groups=10)
    await queue.check()
    yield queue
    await queue.close()


@pytest.fixture
def open_learner(config: QueueConfig) -> Iterator[Callable[[], LearnerQueue]]:
    """Function that opens learners on ``config``'s queue and does not begin them."""
    opened: list[LearnerQueue] = []

    def open_one() -> LearnerQueue:
        opened.append(LearnerQueue.open(config))
        return opened[-1]

    yield open_one
    for learner in opened:
        learner.close()


@pytest.fixture
async def start_gateway(
    tmp_path: Path, redis_server: EmbeddedRedis
) -> AsyncIterator[Callable[..., Awaitable[GatewayProcess]]]:
    """Function that starts gateways on ``redis_server``, where version 0 is published."""
    started: list[GatewayProcess] = []
    await asyncio.to_thread(publish, redis_server.url, 0)

    async def start(**changes: Any) -> GatewayProcess:
        gateway = GatewayProcess(tmp_path / "gateway", redis_server.url, **changes)
        started.append(gateway)
        return await gateway.ready()

    yield start
    for gateway in started:
        gateway.child.kill()


def publish(url: str, *versions: int) -> None:
    """Announces versions as a learner would: version v at step v."""
    learner = LearnerQueue.open(QueueConfig(url=url, run=RUN))
    learner.begin(0, [])
    for version in versions:
        learner.publish(pb.Policy(version=version, step=version, epoch=learner.epoch, uri=f"file:///w/{version}"))
    learner.close()
