"""Ends asyncio tasks that would run for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

_REPEAT_S = 0.1


async def cancel_all(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancels the tasks until all of them have ended, with or without an error. Errors are dropped.

    Cancelling once is not enough: Python 3.11's ``asyncio.wait_for``, through which redis-py writes, loses a cancellation
    that comes just as what it waits for is done, and the task goes on.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_REPEAT_S)
    await asyncio.gather(*tasks, return_exceptions=True)
