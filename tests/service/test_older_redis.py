"""Tests of a Redis that comes back older, or as another one: it is halted, nothing is trained twice or lost without a word.

Each copy of the append-only file is older than what followed it by a minute of the queue's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from learner.checkpoint import store
from learner.cli.app import app
from learner.config import QueueConfig
from learner.queue import (
    Appended,
    EmbeddedRedis,
    GatewayQueue,
    GroupRef,
    HaltedError,
    LearnerQueue,
    StillAwayError,
    UnavailableError,
)
from learner.queue.acceptance import HaltedQueue, TrainedStep
from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, GatewayProcess, eventually, health, valid_group
from tests.service.queueing import begun, client, feed, ids, ledger
from tests.service.test_forgetful_redis import Forgetful
from tests.tools.runs import make_run

Open = Callable[[], LearnerQueue]
KEYS = Keys(RUN)


@pytest.fixture
def redis_copy(tmp_path: Path) -> Iterator[Forgetful]:
    copied = Forgetful(tmp_path / "redis")
    yield copied
    copied.server.stop()


@pytest.fixture
def config(redis_copy: Forgetful) -> QueueConfig:
    return QueueConfig(url=redis_copy.server.url, run=RUN, timeout_s=2.0)


def a_minute_passes(config: QueueConfig) -> None:
    with client(config) as raw:
        raw.hincrby(KEYS.clock, "now", 60_000)


def rows(step: int, groups: list[pb.Group]) -> TrainedStep:
    return TrainedStep(1, step, [("alpha", group.group_id) for group in groups])


def refs(taken: list) -> list[GroupRef]:
    return [one.ref for one in taken]


async def look(queue: GatewayQueue) -> None:
    """Looks as a gateway does; the first attempt may find the connection cut."""
    with contextlib.suppress(UnavailableError):
        await queue.look()
    await queue.look()


def take(learner: LearnerQueue, groups: int, step: int) -> list:
    with learner.waiting_at_most(0.2):
        return learner.take(groups, step, 99)


async def test_an_old_file_is_halted_and_after_the_decision_nothing_is_trained_twice(
    config: QueueConfig, redis_copy: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    """40 groups: 10 are committed before the copy is made, 20 after it, of which 12 are in the copy's queue."""
    learner = begun(open_learner)
    first, second, missing = [[valid_group() for _ in range(count)] for count in (10, 12, 18)]
    await feed(gateway_queue, first + second)
    trained = take(learner, 10, 0)
    learner.report(1, 0, 10)
    learner.commit(1, refs(trained))
    await look(gateway_queue)
    redis_copy.mark()
    a_minute_passes(config)
    await feed(gateway_queue, missing)
    trained = take(learner, 20, 1)
    learner.report(2, 0, 20)
    learner.commit(2, refs(trained))
    held = take(learner, 3, 2)
    learner.guard.begin(None)
    await look(gateway_queue)
    redis_copy.forget()

    with structlog.testing.capture_logs() as lines, pytest.raises(StillAwayError):
        take(learner, 9, 2)
    assert sum("is halted" in line["event"] for line in lines) == 1
    assert "at least 6" in lines[-1]["event"] or any("at least 6" in line["event"] for line in lines)
    with pytest.raises(HaltedError, match=r"accepted 40 .there: 22., trained 30 .there: 10.*leeway queue accept RUN"):
        learner.commit(3, refs(held))
    await gateway_queue.flush([], {}, [])  # finds the connection cut
    resent = valid_group()
    assert await feed(gateway_queue, [resent, second[0]]) == [Appended.HALTED] * 2
    with pytest.raises(HaltedError):
        await gateway_queue.look()
    with pytest.raises(HaltedError):
        await gateway_queue.leases.occupancy()

    with HaltedQueue(config) as halted:
        halt = halted.halt()
        assert halt is not None
        record = [rows(1, first), rows(2, second + missing[:8])]
        done = halted.accept(halt, record)
        assert (done.returned, done.restored, done.vanished) == (12, 8, {"alpha": 10})
        assert halted.halt() is None
    await gateway_queue.look()
    learner.commit(3, refs(held))  # three of those that are missing were in the learner's memory
    account = ledger(config)
    assert (account.accepted, account.trained, account.queued, account.vanished) == (33, 33, 0, 7)
    assert await feed(gateway_queue, [resent, *second, *first, *missing[:11]]) == [
        Appended.ACCEPTED,
        *[Appended.DUPLICATE] * 33,
    ]
    assert ids(take(learner, 9, 3)) == [resent.group_id]


async def test_a_gateway_accepts_nothing_into_an_old_file_that_nobody_has_noticed_yet(
    config: QueueConfig, redis_copy: Forgetful, gateway_queue: GatewayQueue
):
    await look(gateway_queue)
    redis_copy.mark()
    a_minute_passes(config)
    await look(gateway_queue)
    redis_copy.forget()
    await gateway_queue.flush([], {}, [])
    with client(config) as raw:
        assert not raw.exists(KEYS.halted)
        assert await feed(gateway_queue, [valid_group()]) == [Appended.HALTED]
        raw.flushall()
        assert await feed(gateway_queue, [valid_group()]) == [Appended.HALTED]
        assert not raw.exists(KEYS.ledger("alpha"))


async def test_a_loss_of_seconds_is_repaired_without_a_halt(
    config: QueueConfig, redis_copy: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    learner = begun(open_learner)
    redis_copy.mark()
    with client(config) as raw:
        raw.hincrby(KEYS.clock, "now", 3000)
    await look(gateway_queue)
    learner.report(1, 0, 0)
    redis_copy.forget()
    await gateway_queue.flush([], {}, [])
    await look(gateway_queue)
    assert await feed(gateway_queue, [valid_group()]) == [Appended.ACCEPTED]
    assert len(take(learner, 9, 0)) == 1


async def test_the_newest_file_put_back_ends_a_halt(
    config: QueueConfig, redis_copy: Forgetful, gateway_queue: GatewayQueue, open_learner: Open, tmp_path: Path
):
    learner = begun(open_learner)
    redis_copy.mark()
    a_minute_passes(config)
    await feed(gateway_queue, [valid_group()])
    await look(gateway_queue)
    learner.guard.begin(None)
    newest = Forgetful.__new__(Forgetful)
    newest._files, newest._marked, newest.server = redis_copy._files, tmp_path / "newest", redis_copy.server
    newest.mark()
    redis_copy.forget()
    with pytest.raises(StillAwayError):
        take(learner, 9, 0)
    newest.server = redis_copy.server
    newest.forget()
    redis_copy.server = newest.server
    assert len(await asyncio.to_thread(learner.take, 9, 0, 9)) == 1


async def test_a_flush_is_no_end_of_an_epoch(config: QueueConfig, gateway_queue: GatewayQueue, open_learner: Open):
    learner = begun(open_learner)
    groups = [valid_group() for _ in range(5)]
    await feed(gateway_queue, groups)
    taken = take(learner, 3, 0)
    learner.commit(1, refs(taken[:2]))
    learner.guard.begin(None)
    await look(gateway_queue)
    with client(config) as raw:
        raw.flushall()
    told: list[str | None] = []
    learner.guard.on_halt(told.append)
    with pytest.raises(HaltedError, match="has lost this run's data"):
        learner.commit(2, refs(taken[2:]))
    learner.report(2, 0, 1)
    learner.publish(pb.Policy(version=1, step=1, epoch=learner.epoch))
    assert (learner.waiting(), learner.expired()) == (0, 0)  # what was read last
    assert len(told) == 1
    assert await feed(gateway_queue, groups) == [Appended.HALTED] * 5
    with HaltedQueue(config) as halted:
        halt = halted.halt()
        assert halt is not None
        done = halted.accept(halt, [rows(1, groups[:2])])
        assert (done.returned, done.restored, done.vanished) == (0, 2, {"alpha": 3})
    await look(gateway_queue)
    assert await feed(gateway_queue, groups[:2]) == [Appended.DUPLICATE] * 2
    learner.commit(2, refs(taken[2:]))
    assert told[1:] == [None]
    account = ledger(config)
    assert (account.accepted, account.trained, account.vanished) == (3, 3, 2)
    assert [policy.version for _, policy in await gateway_queue.policies("0")] == [0, 1]
    with client(config) as raw:
        assert raw.hget(KEYS.progress, "step") == b"2"


async def test_a_learner_refuses_a_queue_that_is_not_its_checkpoints(
    config: QueueConfig, gateway_queue: GatewayQueue, open_learner: Open
):
    begun(open_learner)
    learner = open_learner()
    learner.begin(0, [], None)
    witness = json.loads(json.dumps(learner.guard.witness()))
    open_learner().begin(4, [], witness)
    with client(config) as raw:
        raw.flushall()
    with pytest.raises(HaltedError, match="has other data under this run's name"):
        open_learner().begin(4, [], witness)
    with pytest.raises(HaltedError):  # a start does not get past it by trying again
        open_learner().begin(4, [], None)
    with HaltedQueue(config) as halted:
        halt = halted.halt()
        assert halt is not None
        halted.accept(halt, [])
    open_learner().begin(4, [], witness)


async def test_trained_groups_are_counted_again_also_where_a_restarted_learner_has_noticed_it(
    config: QueueConfig, redis_copy: Forgetful, gateway_queue: GatewayQueue, open_learner: Open
):
    """Redis has the restarted learner's own epoch by then, which says nothing of what it knows to be trained."""
    learner = begun(open_learner)
    first, second, missing = [[valid_group() for _ in range(count)] for count in (2, 3, 4)]
    await feed(gateway_queue, first + second)
    trained = take(learner, 2, 0)
    learner.report(1, 0, 2)
    learner.commit(1, refs(trained))
    redis_copy.mark()
    a_minute_passes(config)
    await feed(gateway_queue, missing)
    trained = take(learner, 7, 1)
    learner.report(2, 0, 7)
    learner.commit(2, refs(trained))
    learner.guard.begin(None)
    witness = learner.guard.witness()
    redis_copy.forget()
    with pytest.raises(HaltedError, match="older copy"):
        open_learner().begin(2, [], witness)
    with HaltedQueue(config) as halted:
        halt = halted.halt()
        assert halt is not None
        assert (halt.found.epoch, halt.found.reported) == (2, 1)
        done = halted.accept(halt, [rows(1, first), rows(2, second + missing)])
    assert (done.returned, done.restored, done.vanished) == (3, 4, {})
    assert (ledger(config).trained, ledger(config).vanished) == (9, 0)


async def test_gateways_say_that_the_queue_is_halted(
    config: QueueConfig, redis_copy: Forgetful, tmp_path: Path, open_learner: Open
):
    await asyncio.to_thread(begun, open_learner)
    gateway = await GatewayProcess(tmp_path / "gateway", redis_copy.server.url).ready()
    try:
        async with gateway.connect() as fleet:
            group, resent = valid_group(), valid_group()
            assert await fleet.outcomes([group]) == ["ACCEPTED"]
            await health(fleet.channel)
            with client(config) as raw:
                raw.flushall()
            (ack,) = await fleet.submit([resent])
            assert (ack.outcome, ack.reason) == (pb.OUTCOME_RETRY, "queue_halted")
            await health(fleet.channel, status="NOT_SERVING")
            assert "leeway queue accept RUN" in gateway.log()
            with HaltedQueue(config) as halted:
                halt = halted.halt()
                assert halt is not None
                assert halted.accept(halt, []).vanished in ({"alpha": 1}, {})
            await health(fleet.channel)
            assert await eventually(lambda: fleet.outcomes([resent]), lambda got: got != ["RETRY"]) == ["ACCEPTED"]
            account = await fleet.ledger()
            assert (account.accepted, account.queued, account.vanished) == (1, 1, 1)
    finally:
        gateway.child.kill()


def test_the_operators_command(tmp_path: Path):
    """A new, empty Redis under a run with checkpoints: the learner's record fills it again."""
    run = make_run(tmp_path / "run").directory
    server = EmbeddedRedis.start(run.redis)
    config = QueueConfig(url=server.url, run=run.identity("demo"))
    try:
        learner = LearnerQueue.open(config)
        learner.begin(0, [])
        assert leeway("status", run.root) == (0, "the queue is not halted\n")
        witness = learner.guard.witness()
        learner.close()
        assert witness is not None
        groups = [["alpha", valid_group().group_id] for _ in range(3)]
        (run.metrics / "learner.jsonl").write_text('{"kind": "start", "epoch": 1, "resumed_step": 0}\n')
        (run.metrics / "trained.jsonl").write_text(json.dumps({"epoch": 1, "step": 1, "groups": groups}) + "\n")
        directory = run.checkpoints / store.name(1, 1)
        directory.mkdir(parents=True)
        store.write_state(directory, store.CheckpointState(1, 1, []))
        with client(config) as raw:
            raw.flushall()
        learner = LearnerQueue.open(config)
        with pytest.raises(HaltedError, match="has other data under this run's name"):
            learner.begin(1, [], {**witness, "accepted": {"alpha": 5}, "trained": {"alpha": 3}})
        learner.close()
        status, text = leeway("status", run.root)
        assert (status, "accepted 5 (there: 0), trained 3 (there: 0)" in text) == (1, True)
        assert leeway("accept", run.root, input="n\n")[0] == 1
        assert leeway("status", run.root)[0] == 1
        status, text = leeway("accept", run.root, "--yes")
        assert status == 0, text
        assert "fleet alpha: 5 groups were accepted, Redis knows of 0" in text
        assert "3 trained groups were forgotten: counted again" in text
        assert "2 groups are missing at most: counted as vanished" in text
        account = ledger(config)
        assert (account.accepted, account.trained, account.vanished) == (3, 3, 2)
        learner = LearnerQueue.open(config)
        learner.begin(1, [], witness)
        learner.close()
    finally:
        server.stop()


def leeway(*arguments: object, input: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["queue", *map(str, arguments)], input=input)
    return result.exit_code, result.output
