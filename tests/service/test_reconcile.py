"""Tests that the recount finds every planted fault, and none in a queue that is merely busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from learner.config import QueueConfig
from learner.queue import GatewayQueue, GroupRef, LearnerQueue, recount
from learner.queue.keys import Keys
from tests.service.fleet import RUN, valid_group
from tests.service.queueing import begun, client, feed, lease, wish

Open = Callable[[], LearnerQueue]
KEYS = Keys(RUN)


@pytest.fixture
async def refs(gateway_queue: GatewayQueue, open_learner: Open) -> list[GroupRef]:
    """Fills a run with two groups trained, two in flight and two queued; returns the refs of the first four."""
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(6)])
    await lease(gateway_queue, wish("l", 3), bound=99)
    taken = [one.ref for one in learner.take(4, 0, 2)]
    learner.commit(1, taken[:2])
    return taken


def kinds(config: QueueConfig, trained: list[GroupRef] | None = None) -> list[str]:
    return [found.kind for found in recount(config, trained or []).discrepancies]


async def test_a_sound_run(config: QueueConfig, refs: list[GroupRef]):
    found = recount(config, refs[:3])
    assert (found.entries, found.remembered, found.discrepancies, found.unverified) == (
        4,
        {"queued": 4, "trained": 2},
        [],
        [],
    )
    assert found.payload_bytes == 4 * len(valid_group().SerializeToString())


STREAM, LEDGER = KEYS.stream("alpha"), KEYS.ledger("alpha")


def payload(ref: GroupRef) -> str:
    return KEYS.payload(ref.fleet, ref.group_id)


def remember(raw: Any, ref: GroupRef, state: str | None) -> None:
    """Sets what is remembered of a group's id; None: nothing."""
    key = KEYS.ids(ref.fleet, ref.group_id)
    raw.hdel(key, ref.group_id) if state is None else raw.hset(key, ref.group_id, state)


def twin(raw: Any, ref: GroupRef) -> None:
    """Adds a second entry for a queued group."""
    ((_, fields),) = raw.xrange(STREAM, ref.entry_id, ref.entry_id)
    raw.xadd(STREAM, fields)


FAULTS: dict[str, tuple[Callable[[Any, GroupRef], Any], set[str], str]] = {
    "payload deleted": (lambda raw, ref: raw.delete(payload(ref)), {"payload_missing"}, "has no payload"),
    "payload cut": (lambda raw, ref: raw.set(payload(ref), "x"), {"payload_size"}, "the payload has 1"),
    "id forgotten": (lambda raw, ref: remember(raw, ref, None), {"id_not_queued"}, "its id says 'nothing'"),
    "id finished": (lambda raw, ref: remember(raw, ref, "trained:1"), {"id_not_queued", "outcome"}, "'trained:1'"),
    "entry deleted": (
        lambda raw, ref: raw.xdel(STREAM, ref.entry_id),
        {"trimmed", "not_in_stream", "payload_orphaned", "total"},
        "it was trimmed",
    ),
    "stream deleted": (
        lambda raw, _: raw.delete(STREAM),
        {"not_in_stream", "payload_orphaned", "total"},
        "but 0 are in the stream",
    ),
    "entry twice": (twin, {"twice", "total"}, "in the stream twice"),
    "a stray payload": (
        lambda raw, _: raw.set(KEYS.payload("alpha", "stray"), "x"),
        {"payload_orphaned"},
        "group stray never expires",
    ),
    "trained too high": (lambda raw, _: raw.hincrby(LEDGER, "trained", 1), {"total"}, "= 3, but 4 are in the stream"),
    "trained too low": (lambda raw, _: raw.hincrby(LEDGER, "trained", -1), {"total", "outcome"}, "but 2 ids say"),
    "accepted too high": (lambda raw, _: raw.hincrby(LEDGER, "accepted", 2), {"total"}, "= 6, but 4"),
    "bytes too high": (lambda raw, _: raw.hincrby(LEDGER, "bytes", 7), {"total"}, "bytes - bytes_done"),
    "bytes_done too high": (lambda raw, _: raw.hincrby(LEDGER, "bytes_done", 7), {"total"}, "but the entries hold"),
    "fleet unlisted": (
        lambda raw, _: raw.srem(KEYS.fleets, "alpha"),
        {"unlisted", "not_in_stream", "payload_orphaned"},
        "the fleet is not in the list",
    ),
    "a lease without an end": (lambda raw, _: raw.zrem(KEYS.leases, "alpha/l"), {"lease"}, "alpha/l has no end"),
    "a lease without a promise": (
        lambda raw, _: raw.hdel(KEYS.lease_remaining, "alpha/l"),
        {"lease"},
        "promises nothing",
    ),
    "a lease of nothing": (
        lambda raw, _: raw.hset(KEYS.lease_remaining, "alpha/l", 0),
        {"lease"},
        "promises 0 groups",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_planted_fault_is_found(config: QueueConfig, refs: list[GroupRef], fault: str):
    plant, expected, words = FAULTS[fault]
    with client(config) as raw:
        plant(raw, refs[2])
    found = recount(config)
    assert {one.kind for one in found.discrepancies} == expected
    assert any(words in one.text for one in found.discrepancies), found.discrepancies


async def test_a_checkpoint_that_contradicts_the_queue(config: QueueConfig, refs: list[GroupRef]):
    with client(config) as raw:
        remember(raw, refs[0], "expired:1")
    moved = GroupRef("alpha", refs[2].group_id, "1-1")
    found = recount(config, [*refs, moved]).discrepancies
    words = [one.text for one in found if one.kind == "checkpoint"]
    assert any("was counted as expired" in text for text in words)
    assert any("and queued as" in text for text in words)


async def test_a_stream_of_many_pages(config: QueueConfig, gateway_queue: GatewayQueue, open_learner: Open):
    begun(open_learner)
    for _ in range(6):
        await feed(gateway_queue, [valid_group() for _ in range(400)])
    found = recount(config)
    assert (found.entries, found.discrepancies, found.unverified) == (2400, [], [])
    with client(config) as raw:
        group_id = raw.xrange(STREAM)[2222][1][b"id"].decode()  # pyright: ignore
        raw.delete(KEYS.payload("alpha", group_id))
    assert [one.subject for one in recount(config).discrepancies] == [group_id]


async def test_a_busy_queue_is_not_taken_for_a_broken_one(
    config: QueueConfig, gateway_queue: GatewayQueue, open_learner: Open
):
    learner = begun(open_learner)
    submitted = threading.Event()

    def train() -> None:
        while not submitted.is_set() or learner.waiting():
            taken = learner.take(16, 0, 9)
            learner.report(1, 0, len(taken))
            learner.commit(1, [one.ref for one in taken])

    async def submit() -> None:
        try:
            for _ in range(100):
                await feed(gateway_queue, [valid_group() for _ in range(20)])
        finally:
            submitted.set()

    work = asyncio.gather(asyncio.to_thread(train), submit())
    recounts = []
    while not work.done():
        recounts.append(await asyncio.to_thread(recount, config))
    await work
    assert len(recounts) > 1
    assert [found.discrepancies for found in recounts] == [[]] * len(recounts)
    assert recount(config).remembered == {"trained": 2000}


def test_a_redis_that_is_not_there():
    with pytest.raises(Exception, match="not available"):
        recount(QueueConfig(url="redis://127.0.0.1:1", run=RUN, timeout_s=1.0))
