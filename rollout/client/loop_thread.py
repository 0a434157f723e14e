"""An event loop in a thread of its own, on which threads without one run coroutines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from rollout.client.errors import ClientClosedError

_log = logging.getLogger(__name__)

_CLOSING_S = 5.0
_JOIN_S = 10.0
_T = TypeVar("_T")
_Closing = Callable[[], Awaitable[object]]


class LoopThread:
    """Runs coroutines of other threads on an event loop in its own thread; any number of threads may use it at once.

    Closing it, or the end of the interpreter, cancels what still runs.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing: list[_Closing] = []
        self._closed = False
        self._lock = threading.Lock()
        # A daemon: a program that forgets to close its client ends all the same.
        thread = threading.Thread(target=_serve, args=(self._loop, self._closing), name=name, daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop, self._loop, thread)

    def at_end(self, closing: _Closing) -> None:
        """Awaits ``closing()`` on the loop when the thread ends, for 5 s at most."""
        self._closing.append(closing)

    def run(self, coroutine: Coroutine[Any, Any, _T], limit_s: float | None = None) -> _T:
        """Runs a coroutine to its end and returns its result. An exception in the waiting thread, Ctrl-C too, cancels it.

        Args:
            coroutine: what to run.
            limit_s: its limit in seconds; None: it has one of its own, or may take for ever.

        Raises:
            TimeoutError: the limit is over.
            ClientClosedError: the thread was closed before, or while the coroutine ran.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise ClientClosedError("the client is closed")
            future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, limit_s), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientClosedError("the client was closed while this call waited") from None
        finally:
            future.cancel()  # of a future that is done: nothing

    def close(self) -> None:
        """Cancels what runs and ends the thread; waits 10 s at most. Further calls do nothing."""
        with self._lock:
            self._closed = True
        self._stop()


def _serve(loop: asyncio.AbstractEventLoop, closing: list[_Closing]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for close in closing:
            loop.run_until_complete(_closed(close))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _closed(close: _Closing) -> None:
    try:
        await asyncio.wait_for(_awaited(close), _CLOSING_S)
    except TimeoutError:
        _log.warning("connections did not close in %g s", _CLOSING_S)


async def _awaited(close: _Closing) -> None:
    await close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended by itself
        loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():  # where garbage is collected, nobody may choose
        thread.join(_JOIN_S)
