"""Messages that are small to send and meant to be large, slow or poisonous to receive."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from typing import Any

import grpc
import grpc.aio

from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import Fleet, uuid7, valid_group

_INFLATED = 128 << 20  # bytes of a gzip bomb, which has 0.13 MB on the wire
_SUBMIT = "/leeway.v1.RolloutService/Submit"
_PAUSE_S = 0.3
TEMPERATURES = (1e-38, 1e-6, 0.0, -1.0, 1e6, math.inf, math.nan)


class Bomber:
    """Throws each kind of bomb in turn, and goes on whatever the gateway answers.

    Args:
        address: the gateway's.
        fleet: a connection with credentials, for the bombs that need them.
    """

    def __init__(self, address: str, fleet: Fleet) -> None:
        self._address = address
        self._fleet = fleet

    async def run(self) -> None:
        """Throws bombs until it is cancelled."""
        bombs = (self._compressed, self._empty_groups, self._many_spans, self._poison, self._names)
        for bomb in itertools.cycle(bombs):
            with contextlib.suppress(grpc.aio.AioRpcError):  # refused: that is what is wanted
                await bomb()
            await asyncio.sleep(_PAUSE_S)

    async def _compressed(self) -> None:
        """Sends a gzip bomb without credentials, by gRPC's own compression."""
        options = [("grpc.max_send_message_length", -1)]
        compression = grpc.Compression.Gzip
        async with grpc.aio.insecure_channel(self._address, options=options, compression=compression) as channel:
            await _throw(channel, bytes(_INFLATED))

    async def _empty_groups(self) -> None:
        """Sends half a million empty groups in one message of a megabyte."""
        await _throw(self._fleet.channel, bytes([0x22, 0x00]) * 500_000, self._fleet.metadata)  # field 4, no bytes

    async def _many_spans(self) -> None:
        """Sends a group with a span for every token and thousands of named rewards."""
        length = 20_000
        group = valid_group(length=length)
        for response in group.responses:
            del response.spans[:]
            response.spans.extend(pb.Span(version=0, start=at, end=at + 1) for at in range(length))
            response.reward_parts.update({f"part-{number}": 1.0 for number in range(2000)})
        await self._send(pb.SubmitRequest(sequence=0, group=group))

    async def _poison(self) -> None:
        """Sends groups whose numbers would spoil a step or a ledger."""
        groups = [valid_group(temperature=temperature, group_id=uuid7()) for temperature in TEMPERATURES]
        groups += [valid_group(group_id=uuid7()) for _ in range(3)]
        for group, reward in zip(groups[-3:], (math.inf, math.nan, 1e300), strict=True):
            group.responses[0].reward = reward
        first, *more = (pb.SubmitRequest(sequence=number, group=group) for number, group in enumerate(groups))
        first.more.extend(more)
        await self._send(first)

    async def _names(self) -> None:
        """Sends names that a terminal or a table would not survive, and asks for leases under many of them."""
        await self._send(pb.SubmitRequest(sequence=0, group=valid_group(prompt_id="\x1b[2J[red]\x00" * 8)))
        for number in range(60):
            await self._fleet.lease(1, worker=f"w{number}", running_version=number)

    async def _send(self, request: pb.SubmitRequest) -> None:
        await _throw(self._fleet.channel, request.SerializeToString(), self._fleet.metadata)


async def _throw(channel: grpc.aio.Channel, message: bytes, metadata: Any = None) -> None:
    """Sends one message to Submit, as it is, and waits for the end of the stream."""
    call: Any = channel.stream_stream(_SUBMIT)(metadata=metadata, timeout=20)
    await call.write(message)
    await call.done_writing()
    async for _ in call:
        pass
