"""Asks a server whether it lives: every ten seconds, and at once when a request to it has failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import structlog

from rollout.client.backoff import Backoff
from rollout.engine.errors import EngineError
from rollout.engine.sglang import Engine

_EVERY_S = 10.0
_LIMIT_S = 30.0  # above the 20 s after which the server itself calls its probe failed
_TRIES = 3
_FIRST_PAUSE_S = 1.0


class HealthCheck:
    """The health of one server.

    Args:
        cleared: called when a suspect server has been found healthy.

    Attributes:
        suspect: a request has failed, and the server has not been found healthy since.
    """

    def __init__(self, cleared: Callable[[], None]) -> None:
        self.suspect = False
        self._cleared = cleared
        self._paused = False
        self._asked = asyncio.Event()

    def doubt(self) -> None:
        """Has ``watch`` ask now instead of at its next turn."""
        self.suspect = True
        self._asked.set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context in which the server's silence means nothing: it generates nothing while it loads weights."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    async def watch(self, engine: Engine) -> None:
        """Asks until the server has failed to answer three times in a row. Raises EngineError then."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._asked.wait()
            self._asked.clear()
            await self._require(engine)
            if self.suspect and not self._asked.is_set():
                self.suspect = False
                self._cleared()

    async def _require(self, engine: Engine) -> None:
        backoff = Backoff(_FIRST_PAUSE_S, 4 * _FIRST_PAUSE_S)
        while True:
            try:
                return await engine.require_health(_LIMIT_S)
            except EngineError as error:
                if self._paused:
                    backoff.reset()
                elif backoff.failures + 1 >= _TRIES:
                    raise
                structlog.get_logger().warning("no sign of health", url=engine.url, error=str(error))
            await backoff.wait()
