"""The end of a run: fleets are told through the gateway, nothing more is taken, and a resumed run takes groups again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, FencedError, LearnerQueue, reopen
from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from rollout.config import WorkerConfig
from rollout.data.demo_model import DemoShape, write_model
from rollout.main import run_until_signal
from tests.service.fleet import RUN, TOKENS, GatewayProcess, eventually, until, valid_group
from tests.tools.fleet_peers import ScriptedEngine
from tests.tools.published import publish

Start = Callable[..., Awaitable[GatewayProcess]]


def learner_of(server: EmbeddedRedis, steps_made: int = 0) -> LearnerQueue:
    learner = LearnerQueue.open(QueueConfig(url=server.url, run=RUN))
    learner.begin(steps_made, [])
    return learner


def leases(server: EmbeddedRedis) -> dict[bytes, bytes]:
    with redis.Redis.from_url(server.url) as client:
        held: Any = client.hgetall(Keys(RUN).lease_remaining)
        return held


async def test_a_gateway_that_is_stopped_as_the_run_ends_tells_it_first(
    redis_server: EmbeddedRedis, start_gateway: Start
):
    gateway = await start_gateway()
    learner = await asyncio.to_thread(learner_of, redis_server)
    async with SubmitClient(gateway.address, TOKENS["alpha"]) as client:
        watching = client.watch_policy()
        assert (await anext(watching)).version == 0
        await asyncio.to_thread(learner.end)
        gateway.child.terminate()  # as `leeway up` does when the learner has made its last step
        with pytest.raises(StopAsyncIteration):  # else it would look for another gateway for ever
            await asyncio.wait_for(anext(watching), 60)
        assert client.finished
    learner.close()


async def test_watchers_are_told_and_nothing_more_is_taken_until_the_run_is_resumed(
    redis_server: EmbeddedRedis, start_gateway: Start
):
    gateway = await start_gateway()
    learner = await asyncio.to_thread(learner_of, redis_server)
    async with SubmitClient(gateway.address, TOKENS["alpha"]) as client, gateway.connect() as fleet:
        watching = client.watch_policy()
        assert (await anext(watching)).version == 0
        assert (await client.submit(valid_group())).outcome == pb.OUTCOME_ACCEPTED

        await asyncio.to_thread(learner.end)
        with pytest.raises(StopAsyncIteration):  # who watches already
            await asyncio.wait_for(anext(watching), 60)
        assert client.finished
        assert [policy.version async for policy in client.watch_policy()] == [0]  # who comes later
        lease = await client.lease(4)
        assert (lease.groups, lease.lease_id) == (0, "")
        assert lease.retry_after_ms >= 5_000
        (ack,) = await fleet.submit([valid_group()])
        assert (ack.outcome, ack.reason) == (pb.OUTCOME_RETRY, "run_finished")
        ack = await asyncio.wait_for(client.submit(valid_group()), 60)  # it would else wait for ever
        assert (ack.outcome, ack.reason) == (pb.OUTCOME_RETRY, "run_finished")
        assert (await client.get_ledger()).queued == 1  # what was accepted waits for a run with more steps

        resumed = await asyncio.to_thread(learner_of, redis_server, 3)
        with pytest.raises(FencedError):
            await asyncio.to_thread(learner.end)
        await eventually(lambda: client.lease(4), lambda lease: lease.groups)
        assert (await client.submit(valid_group())).outcome == pb.OUTCOME_ACCEPTED
        learner.close()
        resumed.close()


def test_a_run_can_be_reopened_before_its_learner_is_up(redis_server: EmbeddedRedis):
    config = QueueConfig(url=redis_server.url, run=RUN)
    learner = learner_of(redis_server)
    learner.end()
    learner.close()
    progress = Keys(RUN).progress
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.hexists(progress, "finished")
        reopen(config)
        assert not client.hexists(progress, "finished")


async def test_a_worker_ends_with_its_run(redis_server: EmbeddedRedis, start_gateway: Start, tmp_path: Path):
    """It has no group to make and no engine to keep: it gives its leases back and returns, as after a signal."""
    gateway = await start_gateway(limits={"vocab_size": 16})  # the model's
    engine = await ScriptedEngine().start()
    engine.status = 0  # it never answers: every request slot holds a lease
    write_model(tmp_path / "model", 0, DemoShape(layers=1, hidden=32, ffn=32))
    (tmp_path / "token").write_text(TOKENS["alpha"])
    policy = publish(tmp_path / "model", tmp_path / "weights", 1)
    learner = await asyncio.to_thread(learner_of, redis_server)
    policy.epoch, policy.step = learner.epoch, 1
    await asyncio.to_thread(learner.publish, policy)
    config = WorkerConfig.parse(
        {
            "gateway": gateway.address,
            "token_file": tmp_path / "token",
            "allowed_uris": [(tmp_path / "weights").as_uri()],
            **{name: tmp_path / name for name in ("model", "state_dir", "log_dir")},
            "engine": {"urls": [engine.url]},
            "sampling": {"responses": 2, "max_new_tokens": 7},
        },
        source="test",
    )
    worker = asyncio.create_task(run_until_signal(config))
    try:
        await until(lambda: engine.calls.count("/generate") == config.requests or worker.done())
        assert len(leases(redis_server)) == config.requests
        await asyncio.to_thread(learner.end)
        await asyncio.wait_for(worker, 60)
        assert leases(redis_server) == {}
    finally:
        worker.cancel()
        learner.close()
        await engine.stop()
