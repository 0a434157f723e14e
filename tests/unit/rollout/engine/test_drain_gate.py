"""The gate in front of an engine: a draining refit sees no request, any other refit is not held up."""

import asyncio

import pytest

from rollout.engine.drain_gate import DrainGate
from rollout.engine.response import Response


class Request:
    """A generation that ends when the test says so."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.finish = asyncio.Event()

    async def __call__(self) -> list[Response]:
        self.started.set()
        await self.finish.wait()
        return []


async def test_a_draining_refit_waits_for_those_inside_and_keeps_others_out():
    gate, first, second = DrainGate(), Request(), Request()
    running = asyncio.create_task(gate.through(first()))
    await first.started.wait()
    refitting, release = asyncio.Event(), asyncio.Event()

    async def refit() -> None:
        async with gate.closed(wait=True):
            refitting.set()
            await release.wait()

    task = asyncio.create_task(refit())
    waiting = asyncio.create_task(gate.through(second()))
    await asyncio.wait({waiting, task}, timeout=0.05)
    assert not refitting.is_set()
    assert not second.started.is_set()
    first.finish.set()
    await running
    await asyncio.wait_for(refitting.wait(), 60)
    assert not second.started.is_set()
    release.set()
    await task
    await asyncio.wait_for(second.started.wait(), 60)
    second.finish.set()
    await waiting


async def test_other_refits_and_cancelled_requests_hold_nobody_up():
    gate, request = DrainGate(), Request()
    running = asyncio.create_task(gate.through(request()))
    await request.started.wait()
    async with gate.closed(wait=False):
        pass
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(60), gate.closed(wait=True):
        pass
