"""The end of tasks that would run for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

_AGAIN_S = 0.1


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancels the tasks until they have ended, well or not.

    Once is not enough: Python 3.11's ``asyncio.wait_for``, through which redis-py writes, loses a cancellation that comes
    just as what it waits for is done, and the task goes on as if nobody had asked.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
