"""Tests of the memory of ids: a group is remembered or refused, whatever a clock says, and its id counts as bytes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learner.config import QueueConfig
from learner.queue import Appended, GatewayQueue, LearnerQueue, recount
from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, GatewayProcess, eventually, uuid7, valid_group
from tests.service.queueing import begun, client, feed, ids, ledger
from tests.service.test_forgetful_redis import Forgetful

Open = Callable[[], LearnerQueue]
KEYS = Keys(RUN)
HOUR_S = 3600


@pytest.fixture
def redis_copy(tmp_path: Path) -> Iterator[Forgetful]:
    copied = Forgetful(tmp_path / "redis")
    yield copied
    copied.server.stop()


@pytest.fixture
def config(redis_copy: Forgetful) -> QueueConfig:
    """Ids are remembered for an hour."""
    return QueueConfig(url=redis_copy.server.url, run=RUN, timeout_s=2.0, id_memory_s=HOUR_S)


def made_ago(hours: float) -> pb.Group:
    """Makes a group whose id was made so many hours ago."""
    number = uuid.UUID(uuid7()).int - (int(hours * HOUR_S * 1000) << 80)
    return valid_group(group_id=str(uuid.UUID(int=number)))


async def test_a_group_is_a_duplicate_until_it_has_left_and_refused_once_it_is_forgotten(
    config: QueueConfig, gateway_queue: GatewayQueue, open_learner: Open
):
    trained, queued, fresh = made_ago(3), made_ago(2), valid_group()
    learner = begun(open_learner)
    assert await feed(gateway_queue, [trained, queued, fresh]) == [Appended.ACCEPTED] * 3  # nothing is forgotten yet
    assert (await gateway_queue.backlog())["alpha"].remembered == 300
    learner.commit(1, [one.ref for one in learner.take(1, 0, 2)])
    learner.report(1, 0, 0)
    assert await feed(gateway_queue, [trained, queued, fresh]) == [Appended.TOO_OLD, *[Appended.DUPLICATE] * 2]
    assert await feed(gateway_queue, [made_ago(1.5), made_ago(0.5)]) == [Appended.TOO_OLD, Appended.ACCEPTED]
    assert (await gateway_queue.backlog())["alpha"].remembered == 300
    (old, *others) = learner.take(9, 1, 2)
    assert ids([old]) == [queued.group_id]
    learner.commit(2, [old.ref])
    assert await feed(gateway_queue, [queued]) == [Appended.DUPLICATE]
    later = begun(open_learner, resumed_step=2, versions=())
    later.report(2, 0, 0)
    assert await feed(gateway_queue, [queued]) == [Appended.TOO_OLD]
    assert (await gateway_queue.backlog())["alpha"].remembered == 200
    assert (ledger(config).trained, ledger(config).duplicate, len(others)) == (2, 3, 2)
    assert recount(config).discrepancies == []
    with client(config) as raw:
        assert len(raw.keys("*:group:*")) == 2  # pyright: ignore[reportArgumentType]


async def test_what_was_forgotten_in_time_is_neither_vanished_nor_counted_again(
    config: QueueConfig, redis_copy: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    learner = begun(open_learner)
    groups = [made_ago(2), valid_group()]
    await feed(gateway_queue, groups)
    learner.commit(1, [one.ref for one in learner.take(2, 0, 2)])
    learner.report(1, 0, 0)
    assert await gateway_queue.note_vanished("alpha", [group.group_id for group in groups]) == 0
    redis_copy.mark()
    redis_copy.forget()
    assert learner.take(9, 1, 2) == []  # writes what may be lost again
    account = ledger(config)
    assert (account.accepted, account.trained, account.vanished) == (2, 2, 0)


async def test_a_group_that_may_be_forgotten_is_rejected_with_a_reason(
    config: QueueConfig, redis_copy: Forgetful, tmp_path: Path, open_learner: Open
):
    begun(open_learner).report(0, 0, 0)
    gateway = await GatewayProcess(tmp_path / "gateway", redis_copy.server.url).ready()
    try:
        async with gateway.connect() as fleet:
            await eventually(lambda: fleet.outcomes([valid_group()]), lambda outcomes: outcomes == ["ACCEPTED"])
            with client(config) as raw:
                raw.hset(KEYS.memory("alpha"), "cutoff", raw.hget(KEYS.clock, "now"))  # pyright: ignore
            (ack,) = await fleet.submit([made_ago(2)])
            assert (ack.outcome, ack.reason, ack.field) == (pb.OUTCOME_REJECTED, "id_too_old", "group_id")
            account = await eventually(fleet.ledger, lambda account: account.rejected)
            assert dict(account.rejected_by_reason) == {"id_too_old": 1}
            ledger(config)
    finally:
        gateway.child.kill()
