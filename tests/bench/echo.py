"""`python -m tests.bench.echo serve` / `python -m tests.bench.echo JSON`: bare gRPC, the ceiling of the intake.

One bidi stream of the standard message as raw bytes (identity serialisation both ways), an empty acknowledgement for
every eighth: grpc.aio and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from leeway.v1 import rollout_pb2 as pb
from tests.bench.sample import sample_group
from tests.bench.window import Driver

_METHOD = "/bench.Echo/Submit"
_ACK_EVERY = 8
_WINDOW = 256


async def _serve() -> None:
    async def submit(requests: AsyncIterator[bytes], context: Any) -> None:
        count = 0
        async for _ in requests:
            count += 1
            if count % _ACK_EVERY == 0:
                await context.write(b"ack")

    handler = grpc.stream_stream_rpc_method_handler(submit)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Submit": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def _drive(settings: dict[str, Any]) -> None:
    driver, message = Driver(), pb.SubmitRequest(sequence=1, group=sample_group()).SerializeToString()
    async with grpc.aio.insecure_channel(settings["address"]) as channel:
        call = channel.stream_stream(_METHOD)()
        room = asyncio.Semaphore(_WINDOW)
        acked = 0

        async def read() -> None:
            nonlocal acked
            async for _ in call:
                acked += _ACK_EVERY
                for _ in range(_ACK_EVERY):
                    room.release()

        async def write(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await room.acquire()
                await call.write(message)

        reader = asyncio.create_task(read())
        await write(0.5)
        before = acked
        driver.go()
        await write(settings["seconds"])
        driver.done(acked - before)
        call.cancel()
        reader.cancel()


if __name__ == "__main__":
    uvloop.run(_serve() if sys.argv[1] == "serve" else _drive(json.loads(sys.argv[1])))
