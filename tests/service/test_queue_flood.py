"""A fleet that never loads a new version floods the queue with groups that expire, while another has fresh ones."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from learner.queue import GatewayQueue, LearnerQueue
from tests.service.fleet import valid_group
from tests.service.queueing import begun, feed, ids, ledger

_MOST_READS = 128


class CountedLock:
    """A lock that counts how often it was taken, not counting a thread that takes it again while it has it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self.taken = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        self.taken += self._depth == 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()


class Flood:
    """Puts ``rate`` stale groups of a fleet into the queue before every read of it, so that the flood outruns any take."""

    def __init__(self, learner: LearnerQueue, gateway: GatewayQueue, rate: int) -> None:
        self.reads = 0
        self._gateway = gateway
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self._next = learner._groups._reader.next
        learner._groups._reader.next = self.next  # pyright: ignore[reportAttributeAccessIssue]

    def next(self, *arguments: Any) -> Any:
        self.reads += 1
        assert self.reads <= 20 * _MOST_READS, "the take does not end"
        stale = feed(self._gateway, [valid_group(0) for _ in range(self._rate)], "stale", tokens=2)
        asyncio.run_coroutine_threadsafe(stale, self._loop).result()
        return self._next(*arguments)


@pytest.mark.parametrize("groups", [1, 16])
async def test_a_take_returns_the_fresh_groups_of_another_fleet(config, gateway_queue, open_learner, groups: int):
    learner = begun(open_learner, versions=range(9))
    fresh = [valid_group(8) for _ in range(32)]
    await feed(gateway_queue, fresh, "fresh", tokens=5000)
    flood = Flood(learner, gateway_queue, rate=2 * groups)
    learner._groups._lock = lock = CountedLock()  # pyright: ignore[reportAttributeAccessIssue]
    taken: list[str] = []
    while len(taken) < groups:
        before = flood.reads
        taken += ids(await asyncio.to_thread(learner.take, groups - len(taken), 8, 4))
        assert flood.reads - before <= _MOST_READS
        assert flood.reads <= 2 * _MOST_READS
    assert taken == [group.group_id for group in fresh[:groups]]
    assert lock.taken >= flood.reads  # released between reads: a commit or a report can come in between
    assert ledger(config, "stale").expired <= 64 + 3 * groups


async def test_a_take_with_nothing_but_a_flood_ends_empty_and_goes_on_in_the_next(config, gateway_queue, open_learner):
    learner = begun(open_learner, versions=range(9))
    flood = Flood(learner, gateway_queue, rate=32)
    for expired in (64, 80, 96):
        assert await asyncio.to_thread(learner.take, 16, 8, 4) == []
        assert ledger(config, "stale").expired == expired
    assert flood.reads <= 3 * _MOST_READS
