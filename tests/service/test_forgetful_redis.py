"""Tests of what a Redis with AOF everysec loses when it is killed: its last second of writes.

The loss is made on purpose: the append-only file is put back to an earlier state, so that the test knows what is lost.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learner.config import QueueConfig
from learner.queue import Appended, EmbeddedRedis, GatewayQueue, LearnerQueue, StillAwayError
from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, GatewayProcess, eventually, until, valid_group
from tests.service.queueing import begun, client, feed, ids, ledger


class Forgetful:
    """A Redis that can be killed and restarted in the state it had at ``mark``."""

    def __init__(self, directory: Path) -> None:
        self._files = directory / "appendonlydir"
        self._marked = directory / "marked"
        self.server = EmbeddedRedis.start(directory)

    def mark(self) -> None:
        """Keeps a copy of the append-only file. With AOF always, every write that was answered is in it."""
        shutil.rmtree(self._marked, ignore_errors=True)
        shutil.copytree(self._files, self._marked)

    def forget(self) -> None:
        """Kills Redis and starts it without the writes after ``mark``."""
        self.server.child.kill()
        shutil.rmtree(self._files)
        shutil.copytree(self._marked, self._files)
        self.server = self.server.restart()


@pytest.fixture
def redis_that_forgets(tmp_path: Path) -> Iterator[Forgetful]:
    forgetful = Forgetful(tmp_path / "redis")
    yield forgetful
    forgetful.server.stop()


@pytest.fixture
def config(redis_that_forgets: Forgetful) -> QueueConfig:
    return QueueConfig(url=redis_that_forgets.server.url, run=RUN, timeout_s=2.0)


Open = Callable[[], LearnerQueue]


async def test_a_forgotten_commit_is_repeated_and_nothing_is_trained_twice(
    config: QueueConfig, redis_that_forgets: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    learner = begun(open_learner)
    groups = [valid_group() for _ in range(6)]
    await feed(gateway_queue, groups)
    redis_that_forgets.mark()
    taken = learner.take(4, 0, 2)
    learner.commit(1, [one.ref for one in taken])
    redis_that_forgets.forget()
    assert ids(learner.take(9, 1, 2)) == [group.group_id for group in groups[4:]]
    assert (ledger(config).trained, ledger(config).in_flight, ledger(config).lost) == (4, 2, 0)


async def test_a_committed_group_whose_append_was_forgotten_too(
    config: QueueConfig, redis_that_forgets: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    learner = begun(open_learner)
    redis_that_forgets.mark()
    group, kept, resent = valid_group(), valid_group(), valid_group()
    await feed(gateway_queue, [group, resent, kept])
    taken = learner.take(3, 0, 2)
    learner.commit(1, [one.ref for one in taken[:2]])
    redis_that_forgets.forget()
    await gateway_queue.flush([], {}, [])  # finds the connection cut
    assert await feed(gateway_queue, [resent]) == [Appended.ACCEPTED]  # its ack had not reached the fleet
    assert learner.take(9, 1, 2) == []
    assert await feed(gateway_queue, [group]) == [Appended.DUPLICATE]
    learner.commit(2, [taken[2].ref])
    assert await feed(gateway_queue, [kept]) == [Appended.DUPLICATE]
    account = ledger(config)
    assert (account.accepted, account.trained, account.queued, account.in_flight) == (3, 3, 0, 0)


async def test_a_held_group_whose_append_was_forgotten_and_that_was_sent_again(
    config: QueueConfig, redis_that_forgets: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    learner = begun(open_learner)
    redis_that_forgets.mark()
    early, late = valid_group(), valid_group()
    await feed(gateway_queue, [early, late])
    held = learner.take(2, 0, 2)
    redis_that_forgets.forget()
    await gateway_queue.flush([], {}, [])  # finds the connection cut
    assert await feed(gateway_queue, [early]) == [Appended.ACCEPTED]  # its ack had not reached the fleet
    assert learner.take(9, 0, 2) == []  # it is held already
    learner.commit(1, [one.ref for one in held])
    assert await feed(gateway_queue, [late]) == [Appended.DUPLICATE]
    assert learner.take(9, 1, 2) == []
    account = ledger(config)
    assert (account.accepted, account.trained, account.queued, account.in_flight) == (2, 2, 0, 0)


async def test_a_forgotten_start_and_forgotten_versions_are_announced_again(
    config: QueueConfig, redis_that_forgets: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    zombie = begun(open_learner)
    redis_that_forgets.mark()
    learner = begun(open_learner, resumed_step=3, versions=[5, 6])
    redis_that_forgets.forget()
    learner.report(7, 6, 0)
    await gateway_queue.flush([], {}, [])
    # All of them, in order: a fleet may have answered with any.
    assert [policy.version for _, policy in await gateway_queue.policies("0")][-2:] == [5, 6]
    with pytest.raises(Exception, match="epoch 1 is over, the current one is 2"):
        zombie.publish(pb.Policy(version=7, step=7, epoch=1))
    assert open_learner().staleness(0, 7) == 7  # the timeline that left at step 3 is known


async def test_an_epoch_above_what_the_disk_remembers(config: QueueConfig, open_learner: Open):
    assert open_learner().epoch == 1
    queue = LearnerQueue.open(config, above=7)
    assert queue.epoch == 8
    queue.close()
    queue = LearnerQueue.open(config, above=3)
    assert queue.epoch == 9
    queue.close()


async def test_what_was_acknowledged_and_forgotten_is_on_the_account(
    redis_that_forgets: Forgetful, config: QueueConfig, tmp_path: Path, open_learner: Open
):
    learner = await asyncio.to_thread(begun, open_learner)
    gateway = await GatewayProcess(tmp_path / "gateway", redis_that_forgets.server.url).ready()
    kept, gone, trained, again = ([valid_group() for _ in range(count)] for count in (3, 5, 2, 1))
    try:
        async with gateway.connect() as fleet:
            assert await fleet.outcomes(kept) == ["ACCEPTED"] * 3
            redis_that_forgets.mark()
            assert await fleet.outcomes(trained + gone + again) == ["ACCEPTED"] * 8
            taken = await asyncio.to_thread(learner.take, 5, 0, 2)
            await asyncio.to_thread(learner.commit, 1, [one.ref for one in taken])
            await asyncio.to_thread(redis_that_forgets.forget)
            await eventually(fleet.ledger, lambda account: account.vanished >= 6)
            assert "have vanished from redis" in gateway.log()
            # Two were trained before: the learner knows. One is sent again: its fleet had not seen the ack.
            await asyncio.to_thread(learner.report, 1, 0, 0)
            await eventually(lambda: fleet.outcomes(again), lambda outcomes: outcomes != ["RETRY"])
            taken = await asyncio.to_thread(learner.take, 9, 1, 2)
            await asyncio.to_thread(learner.commit, 2, [one.ref for one in taken])
            account = await fleet.ledger()
            assert (account.vanished, account.trained, account.accepted) == (5, 6, 6)
            # One more outage finds nothing new.
            redis_that_forgets.mark()
            await asyncio.to_thread(redis_that_forgets.forget)
            await until(lambda: gateway.log().count("redis answers") == 3)
            assert (await fleet.ledger()).vanished == 5
    finally:
        gateway.child.kill()


async def test_a_training_loop_waits_for_redis_for_seconds_only_and_what_it_reported_is_written_later(
    config: QueueConfig, redis_that_forgets: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    """The other ranks of a learner wait in a collective for rank 0, which must not sit out an outage in it."""
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(6)])
    taken = learner.take(4, 0, 2)
    learner.report(1, 0, 0)
    assert (learner.waiting(), learner.expired()) == (2, 0)
    redis_that_forgets.server.child.kill()
    with learner.waiting_at_most(0.2):
        learner.report(2, 0, 4)
        assert (learner.waiting(), learner.expired()) == (2, 0)  # as they were read last
        with pytest.raises(StillAwayError):
            learner.commit(2, [one.ref for one in taken])
    redis_that_forgets.server = redis_that_forgets.server.restart()
    assert learner.commit(3, [one.ref for one in taken]) == 4
    with client(config) as raw:
        assert raw.hget(Keys(RUN).progress, "step") == b"2"
