"""Runs of another schema. The layout of schema 1 is written down here, command by command, as its release made it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from learner.config import QueueConfig
from learner.queue import Appended, EmbeddedRedis, GatewayQueue, GroupRef, LearnerQueue, QueueError, UnavailableError
from learner.queue.keys import Keys
from learner.queue.redis_session import RedisSession
from learner.queue.schema import migrate
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, eventually, until, uuid7, valid_group
from tests.service.queueing import client, feed, ids, ledger

PREFIX = "leeway:{test}:"
POLICY = '{"version": 0, "step": 0, "epoch": 1}'


def write_schema_1(config: QueueConfig, fleet: str, groups: list[pb.Group], pending: int) -> list[GroupRef]:
    """A fleet's part of a run of schema 1: two groups trained, one lost to staleness, ``groups`` in the queue.

    The first ``pending`` of them were delivered to a learner that has died since.
    """
    refs = []
    with client(config) as raw:
        done = [uuid7() for _ in range(3)]
        raw.set(PREFIX + "schema", "1")
        raw.set(PREFIX + "epoch", "1")
        raw.delete(PREFIX + "timelines", PREFIX + "versions")
        raw.rpush(PREFIX + "timelines", '{"epoch": 1, "resumed_step": 0}')
        raw.hset(PREFIX + "progress", mapping={"epoch": "1", "step": "2", "version": "0", "uncommitted": "0"})
        raw.xadd(PREFIX + "versions", {"version": "0", "json": POLICY})
        raw.sadd(PREFIX + "fleets", fleet)
        stream = PREFIX + "stream:" + fleet
        raw.xgroup_create(stream, "learner", "0", mkstream=True)
        for group in groups:
            payload = group.SerializeToString()
            raw.set(f"{PREFIX}group:{fleet}:{group.group_id}", payload)
            raw.set(f"{PREFIX}id:{fleet}:{group.group_id}", "queued")
            fields: Any = {"id": group.group_id, "tokens": "14", "generated": "8", "responses": "2"}
            entry: Any = raw.xadd(stream, fields)
            refs.append(GroupRef(fleet, group.group_id, entry.decode()))
        if pending:
            raw.xreadgroup("learner", "learner", {stream: ">"}, count=pending)
        for group_id, outcome in zip(done, ("trained:1", "trained:2", "expired:2"), strict=True):
            raw.set(f"{PREFIX}id:{fleet}:{group_id}", outcome, ex=86_400)
        size = len(groups[0].SerializeToString()) if groups else 0
        counts: Any = {"received": len(groups) + 8, "accepted": len(groups) + 3, "duplicate": 1, "rejected": 1}
        counts |= {"rejected:temperature": 1, "retried": 3, "trained": 2, "expired": 1}
        counts |= {"bytes": size * len(groups) + 1000, "length:trained:4": 2, "length:expired:8": 1}
        raw.hset(PREFIX + "ledger:" + fleet, mapping=counts)
        raw.zadd(PREFIX + "leases", {f"{fleet}/lease": time.time() * 1000 + 60_000})
        raw.hset(PREFIX + "lease_remaining", f"{fleet}/lease", "2")
        raw.hset(PREFIX + "running:" + fleet, "worker", f"0:{time.time() * 1000:.0f}")
    return refs


async def test_a_learner_migrates_a_run_of_schema_1(config: QueueConfig, open_learner: Callable[[], LearnerQueue]):
    groups = [valid_group() for _ in range(5)]
    size = len(groups[0].SerializeToString())
    refs = write_schema_1(config, "alpha", groups, pending=3)
    write_schema_1(config, "beta", [], pending=0)
    learner = open_learner()
    assert learner.epoch == 2
    account = ledger(config)
    assert (account.bytes, account.queued_bytes) == (5 * size + 1000, 5 * size)
    assert dict(account.retried_by_reason) == {"not_recorded": 3}
    assert [(b.measure, b.outcome, b.upper, b.count) for b in account.histogram] == [
        (pb.MEASURE_LENGTH, "expired", 8, 1),
        (pb.MEASURE_LENGTH, "trained", 4, 2),
    ]
    # Old entries end like new ones, whoever appended them.
    assert learner.begin(3, refs[:1]) == 1
    assert ledger(config).redelivered == 2
    gateway = GatewayQueue(config, 0)
    await gateway.check()
    late = valid_group()
    assert await feed(gateway, [groups[0], late]) == [Appended.DUPLICATE, Appended.ACCEPTED]
    taken = learner.take(9, 3, 4)
    assert ids(taken) == [group.group_id for group in [*groups[1:], late]]
    learner.commit(4, [one.ref for one in taken])
    account = ledger(config)
    assert (account.trained, account.queued_bytes, account.lost) == (8, 0, 0)
    await gateway.close()


async def test_a_migration_happens_once(config: QueueConfig, open_learner: Callable[[], LearnerQueue]):
    write_schema_1(config, "alpha", [valid_group()], pending=0)
    learner = open_learner()
    learner.begin(0, [])
    learner.commit(1, [one.ref for one in learner.take(1, 0, 9)])
    before = ledger(config)
    open_learner()
    assert ledger(config) == before


@pytest.mark.parametrize("written", [0.05, 0.5, 0.95])
async def test_a_redis_that_is_killed_during_a_migration(config: QueueConfig, any_redis: EmbeddedRedis, written: float):
    """Its log ends somewhere in the migration. Half of one does not exist: the next learner finds schema 1 untouched."""
    write_schema_1(config, "alpha", [valid_group()], pending=0)
    write_schema_1(config, "beta", [valid_group()], pending=0)
    directory = any_redis.child.log.parent
    log = next(path for path in directory.glob("**/*.aof") if path.stat().st_size > 1000)
    with client(config) as raw:
        before = [raw.hgetall(PREFIX + "ledger:" + fleet) for fleet in ("alpha", "beta")]
    start = log.stat().st_size
    session = RedisSession(redis.Redis.from_url(config.url), outage_s=5.0)
    migrate(session, Keys(RUN), 1)
    any_redis.child.kill()
    with log.open("rb+") as file:
        file.truncate(start + int((log.stat().st_size - start) * written))
    server = any_redis.restart()
    try:
        with client(config) as raw:
            assert raw.get(PREFIX + "schema") == b"1"
            assert [raw.hgetall(PREFIX + "ledger:" + fleet) for fleet in ("alpha", "beta")] == before
            migrate(session, Keys(RUN), 1)
            assert raw.get(PREFIX + "schema") == b"2"
            assert raw.hget(PREFIX + "ledger:beta", "bytes_done") == b"1000"
    finally:
        server.stop()


async def test_a_learner_that_dies_between_its_start_and_the_migration(
    config: QueueConfig, open_learner: Callable[[], LearnerQueue], monkeypatch: pytest.MonkeyPatch
):
    write_schema_1(config, "alpha", [valid_group()], pending=1)
    with monkeypatch.context() as context:
        context.setattr("learner.queue.learner_queue.migrate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_learner()
    learner = open_learner()
    assert learner.epoch == 3
    assert ledger(config).queued_bytes > 0


async def test_a_gateway_waits_for_the_migration(
    config: QueueConfig, gateway_queue: GatewayQueue, open_learner: Callable[[], LearnerQueue]
):
    write_schema_1(config, "alpha", [], pending=0)
    gateway = GatewayQueue(config, 0)
    with pytest.raises(UnavailableError, match="schema = '1', ours is '2': waiting for a learner"):
        await gateway.check()
    assert await feed(gateway, [valid_group()]) == [Appended.UNAVAILABLE]
    await asyncio.to_thread(open_learner)
    await gateway.check()
    assert await feed(gateway, [valid_group()]) == [Appended.ACCEPTED]
    await gateway.close()


async def test_a_gateway_process_serves_once_a_learner_has_migrated(redis_server: EmbeddedRedis, start_gateway: Any):
    config = QueueConfig(url=redis_server.url, run=RUN)
    write_schema_1(config, "alpha", [], pending=0)
    gateway = await start_gateway()
    async with gateway.connect() as fleet:
        assert await fleet.outcomes([valid_group()]) == ["RETRY"]
        (await asyncio.to_thread(LearnerQueue.open, config)).close()
        await until(lambda: "redis answers" in gateway.log())
        late = valid_group()
        await eventually(lambda: fleet.outcomes([late]), lambda outcomes: outcomes == ["ACCEPTED"])


async def test_newer_data_is_refused(
    config: QueueConfig, gateway_queue: GatewayQueue, open_learner: Callable[[], LearnerQueue]
):
    with client(config) as raw:
        raw.set(PREFIX + "schema", "3")
        with pytest.raises(QueueError, match=r"schema = '3'.* newer release; this one understands schema '2'"):
            await asyncio.to_thread(open_learner)
        with pytest.raises(QueueError, match="use that release, or a new run name"):
            await gateway_queue.check()
        assert raw.get(PREFIX + "epoch") is None  # nobody was fenced
