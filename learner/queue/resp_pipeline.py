"""Sends many commands in one round trip, as redis-py's own pipeline does, but without copying payloads. For asyncio."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio

Command = Sequence[str | bytes | int]

_LARGE = 4096  # bytes; copying a larger argument costs more than one more element of a vectored write


async def execute(client: redis.asyncio.Redis, commands: Sequence[Command], timeout_s: float) -> list[Any]:
    """Runs commands and returns the reply to each, in order; for a command that failed, its ResponseError.

    Args:
        client: provides the connection.
        commands: name and arguments of each.
        timeout_s: limit of the whole round trip.

    Raises:
        RedisError: the connection broke or the time is over; which commands ran is unknown.
    """
    connection = await client.connection_pool.get_connection()
    complete = False
    try:
        async with asyncio.timeout(timeout_s):
            await connection.send_packed_command(encode(commands), check_health=False)
            replies = [await _reply(connection) for _ in commands]
        complete = True
        return replies
    except TimeoutError as error:
        raise redis.TimeoutError(f"no answer within {timeout_s:g} s") from error
    finally:
        if not complete:
            # Replies that are still to come must not be taken for those of later commands.
            await connection.disconnect(nowait=True)
        await client.connection_pool.release(connection)


def encode(commands: Sequence[Command]) -> list[bytes]:
    """Encodes commands in Redis's wire format (RESP), as buffers to be written one after another."""
    pieces: list[bytes] = []
    text: list[bytes] = []
    for command in commands:
        text.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if isinstance(argument, bytes) else str(argument).encode()
            text.append(b"$%d\r\n" % len(data))
            if len(data) < _LARGE:
                text += (data, b"\r\n")
            else:
                pieces += (b"".join(text), data)
                text = [b"\r\n"]
    pieces.append(b"".join(text))
    return pieces


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except redis.ResponseError as error:
        return error
