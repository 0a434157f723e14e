"""Tests that nothing accepted is lost or handed out twice when Redis is killed or its replies are lost."""

from __future__ import annotations

import asyncio
import time

import pytest

from learner.config import QueueConfig
from learner.queue import Appended, GatewayQueue, LearnerQueue, UnavailableError
from learner.queue.outage import Outage
from learner.queue.scripts import script
from leeway.v1 import rollout_pb2 as pb
from tests.service.conftest import publish
from tests.service.fleet import RUN, until, valid_group
from tests.service.proxy import lossy
from tests.service.queueing import append, begun, client, feed, ids, lease, ledger, wish


async def test_redis_killed_with_aof_always_loses_nothing(config, any_redis, gateway_queue, open_learner):
    learner = begun(open_learner)
    groups = [valid_group() for _ in range(2000)]
    acked: set[str] = set()

    async def feed_until_it_breaks() -> None:
        for start in range(0, len(groups), 8):
            batch = groups[start : start + 8]
            outcomes = await feed(gateway_queue, batch)
            acked.update(group.group_id for group, o in zip(batch, outcomes, strict=True) if o is Appended.ACCEPTED)
            if Appended.UNAVAILABLE in outcomes:
                return

    feeding = asyncio.create_task(feed_until_it_breaks())
    await until(lambda: len(acked) >= 80)
    taken = learner.take(20, 0, 2)
    learner.commit(1, [one.ref for one in taken[:10]])
    any_redis.child.kill()
    await feeding
    assert 80 <= len(acked) < 2000
    server = any_redis.restart()
    assert server.url == any_redis.url  # clients find it again
    try:
        account = ledger(config)
        assert len(acked) <= account.accepted <= len(acked) + 8  # the last batch may have been written unacked
        assert (account.trained, account.in_flight) == (10, 10)
        # The same objects go on: everything is sent again, only what was missing is accepted.
        outcomes = await feed(gateway_queue, groups)
        assert Appended.UNAVAILABLE not in outcomes
        assert ledger(config).accepted == 2000
        seen = ids(taken)
        while more := learner.take(50, 1, 2):
            seen += ids(more)
        assert sorted(seen) == sorted(group.group_id for group in groups)
    finally:
        server.stop()


async def test_committed_groups_are_not_reported_again_after_a_restart(any_redis, gateway_queue, open_learner):
    """A learner repeats its report after an outage. Groups that it has committed since leave no room for leases twice."""
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(5)])
    taken = learner.take(5, 0, 2)
    learner.report(1, 0, 5)
    assert learner.commit(1, [one.ref for one in taken[:4]]) == 4
    any_redis.child.kill()
    server = any_redis.restart()
    try:
        assert learner.take(1, 1, 2) == []  # it notices, and repeats
        with pytest.raises(UnavailableError):  # so does the gateway
            await gateway_queue.ledger("alpha")
        # The one group that is not committed was trained: it does not count against the bound.
        assert await lease(gateway_queue, wish("a", 20), bound=10) == 10
    finally:
        server.stop()


async def test_a_learner_waits_for_redis_to_come_back(config, any_redis, gateway_queue, open_learner):
    learner = begun(open_learner)
    groups = [valid_group() for _ in range(4)]
    await feed(gateway_queue, groups)
    first = learner.take(2, 0, 2)
    any_redis.child.kill()
    taking = asyncio.create_task(asyncio.to_thread(learner.take, 9, 0, 2))
    server = any_redis.restart()
    try:
        assert ids(await taking) == [group.group_id for group in groups[2:]]
        assert learner.commit(1, [one.ref for one in first]) == 2
        assert (ledger(config).trained, ledger(config).in_flight) == (2, 2)
    finally:
        server.stop()


async def test_a_learner_that_starts_before_redis_waits_for_it(config, any_redis, capsys):
    any_redis.child.kill()
    opening = asyncio.create_task(asyncio.to_thread(LearnerQueue.open, config))
    said = ""

    def says_so() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "waiting for redis" in said

    await until(lambda: opening.done() or says_so())
    assert not opening.done()
    server = any_redis.restart()
    try:
        learner = await opening
        assert learner.epoch == 1
        learner.close()
    finally:
        server.stop()


async def test_a_take_whose_reply_is_lost(redis_server):
    publish(redis_server.url, 0)
    config = QueueConfig(url=redis_server.url, run=RUN)
    gateway = GatewayQueue(config, 0)
    await gateway.check()
    groups = [valid_group() for _ in range(6)]
    await feed(gateway, groups)
    async with lossy(redis_server.url) as (proxy, url):
        learner = await asyncio.to_thread(LearnerQueue.open, QueueConfig(url=url, run=RUN))
        await asyncio.to_thread(learner.begin, 0, [])
        first = await asyncio.to_thread(learner.take, 2, 0, 2)
        proxy.lose_reply_to = script("take").sha.encode()
        second = await asyncio.to_thread(learner.take, 2, 0, 2)
        third = await asyncio.to_thread(learner.take, 9, 0, 2)
        assert proxy.lost == 1
        assert ids(first) + ids(second) + ids(third) == [group.group_id for group in groups]
        # A commit whose reply is lost is repeated, and counted once.
        proxy.lose_reply_to = script("finish").sha.encode()
        await asyncio.to_thread(learner.commit, 1, [one.ref for one in first + second])
        assert proxy.lost == 2
        # So are a version and a report.
        proxy.lose_reply_to = script("publish").sha.encode()
        await asyncio.to_thread(learner.publish, pb.Policy(version=1, step=1, epoch=learner.epoch))
        proxy.lose_reply_to = script("report").sha.encode()
        await asyncio.to_thread(learner.report, 1, 1, 0)
        assert proxy.lost == 4
        learner.close()
    assert [policy.version for _, policy in await gateway.policies("0")] == [0, 1]
    account = ledger(config)
    assert (account.trained, account.in_flight) == (4, 2)
    await gateway.close()


async def test_an_append_whose_reply_is_lost(redis_server):
    config = QueueConfig(url=redis_server.url, run=RUN)
    async with lossy(redis_server.url) as (proxy, url):
        gateway = GatewayQueue(QueueConfig(url=url, run=RUN), 0)
        await gateway.check()
        assert await feed(gateway, [valid_group()]) == [Appended.ACCEPTED]  # loads the scripts
        groups = [valid_group() for _ in range(8)]
        proxy.lose_reply_to = script("append").sha.encode()
        assert await feed(gateway, groups) == [Appended.UNAVAILABLE] * 8
        assert (proxy.lost, ledger(config).accepted) == (1, 9)
        assert await feed(gateway, groups) == [Appended.DUPLICATE] * 8
        await gateway.close()
    account = ledger(config)
    assert (account.accepted, account.duplicate, account.queued) == (9, 8, 9)


async def test_groups_of_a_failed_take_come_again(config, any_redis, gateway_queue, open_learner, monkeypatch):
    """Makes a take fail half-way, by an outage longer than it waits: it hands nothing out, and the next take everything."""
    learner = begun(open_learner, versions=[0, 1, 2])
    groups = [valid_group(2), valid_group(0), valid_group(2)]  # the second expires: that needs Redis once more
    await feed(gateway_queue, groups)
    monkeypatch.setattr(learner._session, "_outage", Outage(0.2, time.monotonic))
    original = learner._groups._keep_trainable

    def kill_before_expiring(*arguments):
        any_redis.child.kill()
        return original(*arguments)

    monkeypatch.setattr(learner._groups, "_keep_trainable", kill_before_expiring)
    with pytest.raises(UnavailableError):
        learner.take(3, 2, 1)
    monkeypatch.setattr(learner._groups, "_keep_trainable", original)
    server = any_redis.restart()
    try:
        assert ids(learner.take(3, 2, 1)) == [groups[0].group_id, groups[2].group_id]
        assert ledger(config).expired == 1
    finally:
        server.stop()


async def test_scripts_are_loaded_again_after_a_flush_of_the_cache(config, gateway_queue, open_learner):
    learner = begun(open_learner)
    with client(config) as raw:
        await feed(gateway_queue, [valid_group()])
        raw.script_flush()
        flushed = await gateway_queue.flush([append(valid_group()), append(valid_group())], {}, [])
        assert flushed.outcomes == [Appended.ACCEPTED] * 2
        raw.script_flush()
        assert len(learner.take(5, 0, 2)) == 3


async def test_a_commit_repeated_while_other_groups_are_uncommitted(gateway_queue, open_learner):
    """Repeats a commit, as after a lost reply: nothing is left to finish, and admission's counts stay as they are."""
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(4)])
    taken = learner.take(4, 0, 2)
    learner.report(2, 0, 4)
    first = [one.ref for one in taken[:2]]
    assert learner.commit(1, first) == 2
    assert learner.commit(1, first) == 0
    assert learner.commit(2, [one.ref for one in taken]) == 2
