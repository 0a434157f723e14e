"""Serves one Submit call: reads groups, writes acks, and reads no more while too many groups are unacknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from learner.gateway.submit_handler import SubmitHandler
from leeway.v1 import rollout_pb2

Write = Callable[[rollout_pb2.SubmitResponse], Awaitable[None]]


class SubmitCall:
    """Hands the groups of one Submit call to the submit handler, and writes their acks, as many as are ready at a time.

    Args:
        fleet: the fleet that opened the stream.
        handler: takes each group.
        max_unacked: the most groups read and not yet acknowledged; at it nothing is read, which slows the client down.

    Attributes:
        received: groups read so far.
    """

    def __init__(self, fleet: str, handler: SubmitHandler, max_unacked: int) -> None:
        self.received = 0
        self._fleet = fleet
        self._handler = handler
        self._slots = asyncio.Semaphore(max_unacked)
        self._unacked = 0
        self._acks: list[rollout_pb2.Ack] = []
        self._wake = asyncio.Event()

    async def run(
        self, requests: AsyncIterator[rollout_pb2.SubmitRequest], write: Write, closing: asyncio.Event
    ) -> None:
        """Runs until the client has sent everything, or ``closing`` is set, and every group read has its ack."""
        reader = asyncio.create_task(self._read(requests))
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

    async def _read(self, requests: AsyncIterator[rollout_pb2.SubmitRequest]) -> None:
        async for message in requests:
            for request in flat(message):
                self.received += 1
                await self._slots.acquire()
                await self._handler.take(self._fleet, request, self._deliver)
                self._unacked += 1

    def _deliver(self, ack: rollout_pb2.Ack) -> None:
        self._acks.append(ack)
        self._wake.set()

    async def _write(self, write: Write) -> None:
        acks, self._acks = self._acks, []
        await write(rollout_pb2.SubmitResponse(acks=acks))
        self._unacked -= len(acks)
        for _ in acks:
            self._slots.release()


def flat(request: rollout_pb2.SubmitRequest) -> Iterator[rollout_pb2.SubmitRequest]:
    """Yields the request and those nested in it, in order. The protobuf parser bounds the depth."""
    yield request
    for inner in request.more[:]:
        yield from flat(inner)
