"""A Submit call: what it holds against the byte budget, and that it gives all of it back however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from learner.gateway.byte_budget import ByteBudget
from learner.gateway.parsing import MalformedError
from learner.gateway.submit_call import SubmitCall
from leeway.v1 import rollout_pb2 as pb

Deliver = Callable[[pb.Ack], None]


class Handler:
    """Keeps what it is given until the test decides about it."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, Deliver]] = []

    async def take(self, fleet: str, request: pb.SubmitRequest, deliver: Deliver) -> None:
        assert fleet == "alpha"
        self.taken.append((request.sequence, deliver))

    def decide(self, count: int) -> None:
        for sequence, deliver in self.taken[:count]:
            deliver(pb.Ack(sequence=sequence))
        del self.taken[:count]


class Bench:
    """A running call of the fleet alpha, whose messages come from ``messages``; ``None`` ends them."""

    def __init__(self, total: int, max_unacked: int = 100) -> None:
        self.budget = ByteBudget(total, total)
        self.handler = Handler()
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.acks: list[int] = []
        self.closing = asyncio.Event()
        handler: Any = self.handler
        self.call = SubmitCall("alpha", handler, max_unacked, self.budget)
        self.task = asyncio.create_task(self.call.run(self._sent(), self._write, self.closing))

    async def _sent(self) -> AsyncIterator[bytes]:
        while (message := await self.messages.get()) is not None:
            yield message

    async def _write(self, response: pb.SubmitResponse) -> None:
        self.acks += [ack.sequence for ack in response.acks]

    @property
    def held(self) -> int:
        return sum(self.budget.held.values())


def message(*sequences: int) -> bytes:
    """Makes a message of one group for each sequence."""
    request = pb.SubmitRequest(sequence=sequences[0], lease_id="x" * 50)
    request.more.extend([pb.SubmitRequest(sequence=one, lease_id="x" * 50) for one in sequences[1:]])
    return request.SerializeToString()


async def settle() -> None:
    """Lets every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_nothing_more_is_read_until_outcomes_make_room():
    size = len(message(1))
    bench = Bench(total=2 * size)
    for sequence in (1, 2, 3, 4):
        bench.messages.put_nowait(message(sequence))
    await settle()
    assert ([sequence for sequence, _ in bench.handler.taken], bench.held) == ([1, 2], 2 * size)
    assert bench.messages.qsize() == 1  # the third waits for room, the fourth has not been asked for
    bench.handler.decide(1)
    await settle()
    assert ([sequence for sequence, _ in bench.handler.taken], bench.acks) == ([2, 3], [1])
    bench.messages.put_nowait(None)
    for _ in range(3):
        bench.handler.decide(1)
        await settle()
    await asyncio.wait_for(bench.task, 60)
    assert (bench.acks, bench.held) == ([1, 2, 3, 4], 0)


async def test_each_group_of_a_message_gives_its_part_back():
    bench = Bench(total=10_000)
    bench.messages.put_nowait(message(1, 2, 3))
    await settle()
    size = len(message(1, 2, 3))
    left = [bench.held]
    for _ in range(3):
        bench.handler.decide(1)
        left.append(bench.held)
    assert (left[0], left[-1]) == (size, 0)
    assert [size - one for one in left] == pytest.approx([0, size / 3, 2 * size / 3, size], abs=1)
    bench.messages.put_nowait(None)
    await asyncio.wait_for(bench.task, 60)


async def test_a_malformed_message_ends_the_call_after_the_acks_before_it_and_holds_nothing():
    bench = Bench(total=10_000)
    bench.messages.put_nowait(message(1))
    bench.messages.put_nowait(b"\x1f\x8b\x08")
    await settle()
    assert (bench.task.done(), bench.held) == (False, len(message(1)))
    bench.handler.decide(1)
    with pytest.raises(MalformedError):
        await asyncio.wait_for(bench.task, 60)
    assert (bench.acks, bench.held) == ([1], 0)


async def test_groups_of_a_client_that_went_away_are_held_until_they_have_outcomes_and_no_longer():
    bench = Bench(total=10_000, max_unacked=2)
    bench.messages.put_nowait(message(1, 2, 3))  # the third has no slot
    await settle()
    bench.task.cancel()
    await settle()
    assert bench.task.cancelled()
    size = len(message(1, 2, 3))
    assert bench.held == pytest.approx(2 * size / 3, abs=1)
    bench.handler.decide(2)
    assert bench.held == 0


async def test_a_message_that_waits_for_room_is_dropped_when_the_gateway_drains():
    size = len(message(1))
    bench = Bench(total=size)
    for sequence in (1, 2):
        bench.messages.put_nowait(message(sequence))
    await settle()
    bench.closing.set()
    await settle()
    bench.handler.decide(1)
    await asyncio.wait_for(bench.task, 60)
    assert (bench.acks, bench.handler.taken, bench.held) == ([1], [], 0)
