"""`python -m tests.chaos.streams FILE.json`: many fleets' streams in one process; prints what it saw as a line of JSON.

Each stream sends at its own pace, whatever its acks do, so that a slow gateway shows as latency and not as fewer groups.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc.aio

from leeway.v1 import rollout_pb2 as pb
from runtime.children import die_with_parent
from runtime.settings import Settings
from tests.service.fleet import Fleet, valid_group


class StreamsConfig(Settings):
    """Settings of a process that sends streams of groups."""

    address: str
    tokens: list[str]  # one stream for each
    per_s: float  # groups a second, of each stream
    groups: int  # of each stream
    length: int  # tokens of a response
    start: float  # Unix seconds: when to begin


class Stream:
    """One Submit call; keeps latencies in seconds, and every answer that was not an acceptance."""

    def __init__(self, config: StreamsConfig, token: str, delay_s: float) -> None:
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self._config = config
        self._token = token
        self._delay_s = delay_s
        self._sent: dict[int, float] = {}

    async def run(self) -> None:
        """Sends all groups; returns when every group has its ack, or the stream has broken."""
        async with Fleet(self._config.address, self._token) as fleet:
            call = fleet.open(timeout=300)
            writing = asyncio.create_task(self._write(call))
            try:
                async for response in call:
                    for ack in response.acks:
                        self._record(ack)
                await writing
            except grpc.aio.AioRpcError as error:
                self.errors.append(f"{error.code().name}: {error.details()}")
                writing.cancel()

    async def _write(self, call: Any) -> None:
        start = self._config.start + self._delay_s
        for sequence in range(self._config.groups):
            await asyncio.sleep(max(0.0, start + sequence / self._config.per_s - time.time()))
            group = valid_group(length=self._config.length)
            self._sent[sequence] = time.monotonic()
            await call.write(pb.SubmitRequest(sequence=sequence, group=group))
        await call.done_writing()

    def _record(self, ack: pb.Ack) -> None:
        self.latencies.append(time.monotonic() - self._sent.pop(ack.sequence))
        if ack.outcome != pb.OUTCOME_ACCEPTED:
            self.errors.append(f"{pb.Outcome.Name(ack.outcome)} {ack.reason} {ack.field} {ack.value}")


async def main(config: StreamsConfig) -> dict[str, Any]:
    """Runs all streams at once, with their beginnings spread over one period."""
    count = len(config.tokens)
    streams = [Stream(config, token, index / count / config.per_s) for index, token in enumerate(config.tokens)]
    await asyncio.gather(*(stream.run() for stream in streams))
    return {
        "latencies": [latency for stream in streams for latency in stream.latencies],
        "errors": [error for stream in streams for error in stream.errors],
    }


if __name__ == "__main__":
    die_with_parent()
    print(json.dumps(asyncio.run(main(StreamsConfig.load(Path(sys.argv[1]))))))
