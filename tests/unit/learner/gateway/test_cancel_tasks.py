"""Ending a gateway's tasks: none stays because a cancellation was lost."""

from __future__ import annotations

import asyncio

from learner.gateway.cancel_tasks import cancel_all


async def test_a_task_that_loses_cancellations_ends_all_the_same():
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # what Python 3.11's wait_for makes of one that comes as it ends
                lost += 1
        await asyncio.Event().wait()

    async def faulty() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    tasks = [asyncio.create_task(work) for work in (deaf(), faulty(), asyncio.sleep(0))]
    await tasks[2]
    async with asyncio.timeout(60):
        await cancel_all(tasks)
    assert [task.cancelled() for task in tasks] == [True, False, False]
    assert lost == 2
    await cancel_all(tasks)  # a second time: nothing is left to do


async def test_nothing_to_cancel():
    await cancel_all([])
