"""The threads in which a gateway does for operators what would block its loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 4  # calls of operators are rare, and must not take from fleets what the machine has


class OperatorThreads:
    """A few threads of their own: a slow answer for an operator delays other operators, never a fleet."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "operator")

    async def run(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs ``action`` in a thread and returns its result. Cancelled before a thread is free, it never runs."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: action(*args, **kwargs))

    def close(self) -> None:
        """Takes no more work; what is under way ends by the time limits of Redis' connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
