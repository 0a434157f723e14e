"""`python -m tests.bench.producer JSON`: a fleet that submits as fast as it is let, or at a given rate."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient, new_group_id
from runtime.allocator import keep_freed_memory
from tests.bench.sample import samples
from tests.bench.window import Driver, percentile

_WARM_UP_S = 1.0


class Producer:
    """Submits groups over one client; every lane has one group under way at a time."""

    def __init__(self, client: SubmitClient, lanes: int) -> None:
        self._client = client
        self._groups = samples(lanes)
        self.acked = 0
        self.latencies: list[float] = []

    async def saturate(self, seconds: float) -> None:
        """Submits on all lanes, one group after another."""
        end = time.monotonic() + seconds

        async def lane(group: pb.Group) -> None:
            while time.monotonic() < end:
                await self._submit(group, time.monotonic())

        await asyncio.gather(*(lane(group) for group in self._groups))

    async def decide(self, seconds: float, rate: float) -> None:
        """Submits ``rate`` groups a second whatever the gateway does; latency counts from the time a group was due."""
        start = time.monotonic()
        idle = list(self._groups)
        tasks: set[asyncio.Task[None]] = set()
        for number in range(int(seconds * rate)):
            due = start + number / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            group = idle.pop() if idle else samples(1)[0]
            task = asyncio.create_task(self._submit(group, due))
            tasks.add(task)
            task.add_done_callback(lambda task, group=group: (tasks.discard(task), idle.append(group)))
        await asyncio.gather(*tasks)

    async def _submit(self, group: pb.Group, due: float) -> None:
        group.group_id = new_group_id()
        ack = await self._client.submit(group)
        if ack.outcome != pb.OUTCOME_ACCEPTED:
            raise RuntimeError(f"a group was not accepted: {ack}")
        self.latencies.append(time.monotonic() - due)
        self.acked += 1


async def _main(settings: dict[str, Any]) -> None:
    driver = Driver()
    lanes = settings["lanes"]
    async with SubmitClient(settings["address"], settings["token"], in_flight=max(lanes, 1024)) as client:
        producer = Producer(client, lanes)

        async def run(seconds: float) -> None:
            if settings["rate"]:
                await producer.decide(seconds, settings["rate"])
            else:
                await producer.saturate(seconds)

        await run(_WARM_UP_S)
        producer.acked, producer.latencies = 0, []
        driver.go()
        await run(settings["seconds"])
        took = {f"p{share}_ms": 1000 * percentile(producer.latencies, share / 100) for share in (50, 99)}
        driver.done(producer.acked, **took)


if __name__ == "__main__":
    keep_freed_memory()  # as a rollout worker does
    uvloop.run(_main(json.loads(sys.argv[1])))
