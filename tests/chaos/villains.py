"""Fleets that behave, and fleets that do not: `python -m tests.chaos.villains ADDRESS TOKENS` runs the latter until killed.

TOKENS is JSON: fleet -> bearer token.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from leeway.v1 import rollout_pb2 as pb
from runtime.children import die_with_parent
from tests.chaos.bombs import Bomber
from tests.service.fleet import Fleet, uuid7, valid_group

OBEDIENT = ("obedient-a", "obedient-b")
VILLAINS = ("stale", "leaseless", "hoarder", "bomber")
USEFUL = (*OBEDIENT, "leaseless")  # whose groups can be trained
_STALE_PER_S = 400.0
_IN_FLIGHT = 128  # groups of a flood without an ack
_LENGTH = 50  # tokens of a response


class Obedient:
    """A fleet that makes as much as its leases allow, with the newest version, and asks again at once."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token
        self._version: int | None = None

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with Fleet(self._address, self._token) as fleet:
            watching = asyncio.create_task(self._watch(fleet))
            try:
                await asyncio.gather(*(self._work(fleet, f"worker-{number}") for number in range(4)))
            finally:
                watching.cancel()

    async def _watch(self, fleet: Fleet) -> None:
        async for response in fleet.stub.WatchPolicy(pb.WatchPolicyRequest(), metadata=fleet.metadata):
            self._version = response.policy.version

    async def _work(self, fleet: Fleet, worker: str) -> None:
        while True:
            if self._version is None:
                await asyncio.sleep(0.02)
                continue
            lease = await fleet.lease(8, worker=worker, running_version=self._version)
            if not lease.groups:
                await asyncio.sleep(lease.retry_after_ms / 1000)
                continue
            version = self._version
            await asyncio.sleep(0.02)  # it takes a while to generate
            groups = [valid_group(version=version, length=_LENGTH) for _ in range(lease.groups)]
            for ack in await fleet.submit(groups, lease.lease_id):
                if ack.outcome != pb.OUTCOME_ACCEPTED:
                    raise AssertionError(f"a fleet that obeys its leases was told {ack}")


class Flood:
    """A fleet without leases that keeps _IN_FLIGHT groups unacknowledged, and sends again what it is told to.

    Args:
        fleet: its connection.
        refits: whether it follows the versions; otherwise all its groups are of the first one it hears of.
        per_s: most groups a second; None: as many as are acknowledged.
    """

    def __init__(self, fleet: Fleet, refits: bool, per_s: float | None) -> None:
        self._fleet = fleet
        self._refits = refits
        self._pause = 0.0 if per_s is None else 1 / per_s
        self._room = asyncio.Semaphore(_IN_FLIGHT)
        self._version = 0
        self._started = asyncio.Event()

    async def run(self) -> None:
        """Floods until it is cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._started.wait()
            call = self._fleet.open(timeout=3600)
            reading = asyncio.create_task(self._read(call))
            await self._write(call)
            await reading
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        async for response in self._fleet.stub.WatchPolicy(pb.WatchPolicyRequest(), metadata=self._fleet.metadata):
            if self._refits or not self._started.is_set():
                self._version = response.policy.version
            self._started.set()

    async def _write(self, call) -> None:
        for sequence in itertools.count():
            await self._room.acquire()
            group = valid_group(version=self._version, length=_LENGTH, group_id=uuid7())
            await call.write(pb.SubmitRequest(sequence=sequence, group=group))
            await asyncio.sleep(self._pause)

    async def _read(self, call) -> None:
        loop = asyncio.get_running_loop()
        async for response in call:
            for ack in response.acks:
                # What is to be retried is thrown away: the next one is as good.
                delay = ack.retry_after_ms / 1000 if ack.outcome == pb.OUTCOME_RETRY else 0.0
                loop.call_later(delay, self._room.release)


async def hoard(fleet: Fleet) -> None:
    """Asks for as many leases as there are, under many names, and makes nothing."""

    async def worker(name: str) -> None:
        while True:
            lease = await fleet.lease(64, worker=name)
            await asyncio.sleep(max(0.05, lease.retry_after_ms / 1000))

    await asyncio.gather(*(worker(f"worker-{number}") for number in range(8)))


async def main(address: str, tokens: dict[str, str]) -> None:
    """Runs every villain, each again when its connection breaks."""
    works: dict[str, Callable[[Fleet], Awaitable[None]]] = {
        "stale": lambda fleet: Flood(fleet, refits=False, per_s=_STALE_PER_S).run(),
        "leaseless": lambda fleet: Flood(fleet, refits=True, per_s=None).run(),
        "hoarder": hoard,
        "bomber": lambda fleet: Bomber(address, fleet).run(),
    }

    async def again(name: str) -> None:
        while True:
            try:
                async with Fleet(address, tokens[name]) as fleet:
                    await works[name](fleet)
            except grpc.aio.AioRpcError as error:
                print(f"{name}: {error.code()} {error.details()}", flush=True)
                await asyncio.sleep(0.2)

    await asyncio.gather(*(again(name) for name in VILLAINS))


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
