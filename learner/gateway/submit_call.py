"""Serves one Submit call: reads groups, writes acks, and reads no more while too many groups are unacknowledged."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable

from learner.gateway.byte_budget import ByteBudget
from learner.gateway.parsing import parse_submit
from learner.gateway.submit_handler import SubmitHandler
from leeway.v1 import rollout_pb2

Write = Callable[[rollout_pb2.SubmitResponse], Awaitable[None]]


class SubmitCall:
    """Hands the groups of one Submit call to the submit handler, and writes their acks, as many as are ready at a time.

    Args:
        fleet: the fleet that opened the stream.
        handler: takes each group.
        max_unacked: the most groups read and not yet acknowledged; at it nothing is read, which slows the client down.
        budget: holds the bytes of every message until its groups have their outcomes; while they do not fit, nothing is read.

    Attributes:
        received: groups read so far.
    """

    def __init__(self, fleet: str, handler: SubmitHandler, max_unacked: int, budget: ByteBudget) -> None:
        self.received = 0
        self._fleet = fleet
        self._handler = handler
        self._budget = budget
        self._slots = asyncio.Semaphore(max_unacked)
        self._unacked = 0
        self._acks: list[rollout_pb2.Ack] = []
        self._wake = asyncio.Event()

    async def run(self, messages: AsyncIterator[bytes], write: Write, closing: asyncio.Event) -> None:
        """Runs until the client has sent everything, or ``closing`` is set, and every group read has its ack.

        Raises:
            MalformedError: a message cannot be taken; what was read before it has been acknowledged.
        """
        reader = asyncio.create_task(self._read(messages))
        close = asyncio.create_task(closing.wait())
        for task in (reader, close):
            task.add_done_callback(lambda _: self._wake.set())
        try:
            while self._acks or self._unacked or not reader.done():
                await self._wake.wait()
                self._wake.clear()
                if close.done():
                    reader.cancel()
                if self._acks:
                    await self._write(write)
            if not reader.cancelled():
                reader.result()
        finally:
            reader.cancel()
            close.cancel()

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            await self._budget.acquire(self._fleet, len(message))
            await self._take(message)

    async def _take(self, message: bytes) -> None:
        """Hands the groups of a message on, each with its part of the message's bytes, which its outcome gives back."""
        left = len(message)
        try:
            requests = parse_submit(message)
            for number, request in enumerate(requests):
                self.received += 1
                await self._slots.acquire()
                part = left // (len(requests) - number)
                await self._handler.take(self._fleet, request, functools.partial(self._deliver, part))
                left -= part
                self._unacked += 1
        finally:
            self._budget.release(self._fleet, left)

    def _deliver(self, size: int, ack: rollout_pb2.Ack) -> None:
        # Given back now, not when the ack is written: the group's memory is free, and the client may never read its acks.
        self._budget.release(self._fleet, size)
        self._acks.append(ack)
        self._wake.set()

    async def _write(self, write: Write) -> None:
        acks, self._acks = self._acks, []
        await write(rollout_pb2.SubmitResponse(acks=acks))
        self._unacked -= len(acks)
        for _ in acks:
            self._slots.release()
