"""The way of requests to one engine: kept out while it drains or rests, ended at once when it fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from rollout.client.backoff import Backoff
from rollout.engine.drain_gate import DrainGate
from rollout.engine.errors import BusyError, EngineError, WeightsError
from rollout.engine.health_check import HealthCheck
from rollout.engine.response import Response
from rollout.engine.running_limit import RunningLimit
from rollout.engine.sampling import Sampling
from rollout.engine.sglang import Arrived, Engine

T = TypeVar("T")
_REST_S, _LONGEST_REST_S = 0.5, 30.0  # without new requests, after one that failed on a server that lives
_LONGEST_RETRY_AFTER_S = 300.0  # that a server may ask for


class RequestLane:
    """Requests to one engine, through all its restarts.

    Args:
        index: the engine's number in the worker.
        max_running: most streamed responses under way on it.
        freed: called when it takes requests again, or one more response.

    Attributes:
        version: the version that the engine serves; None: it takes no requests.
        requests: number of requests under way.
        responses: number of responses that they generate.
        limit: how many responses may be streamed at once.
        gate: keeps requests out while a draining refit runs.
        health: whether the engine lives.
        failure: set, with the reason, when the engine has failed.
    """

    def __init__(self, index: int, max_running: int, freed: Callable[[], None]) -> None:
        self.index = index
        self.version: int | None = None
        self.requests = 0
        self.responses = 0
        self.limit = RunningLimit(max_running)
        self.gate = DrainGate()
        self.freed = freed
        self.health = HealthCheck(freed)
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._engine: Engine | None = None
        self._rest = Backoff(_REST_S, _LONGEST_REST_S)
        self._rests_until = 0.0

    def renew(self) -> None:
        """Forgets what the engine was blamed for before it was started again."""
        self.failure = asyncio.get_running_loop().create_future()
        self.health = HealthCheck(self.freed)
        self._rest.reset()
        self._rests_until = 0.0

    def lead_to(self, engine: Engine) -> None:
        """Sends requests to this client, once ``version`` is set."""
        self._engine = engine

    def fail(self, reason: str) -> None:
        """Marks the engine as failed: every request on it ends with EngineError, and it takes no more."""
        self.version = None
        if not self.failure.done():
            self.failure.set_result(reason)

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates as ``Engine.generate`` does; fails at once when the engine fails.

        After a failure the engine rests, and unless it was only busy its health is asked, which decides whether it lives.

        Raises:
            EngineError: also when the engine died, or does not serve.
            UnattributedError: the server does not say which version generated what.
        """
        return await self._send(self._serving().generate(prompts, sampling), len(prompts))

    async def generate_one(
        self, prompt: Sequence[int], sampling: Sampling, arrived: Arrived, at_once: bool
    ) -> Response:
        """Generates as ``Engine.generate_one`` does, and fails as ``generate`` does."""
        return await self._send(self._serving().generate_one(prompt, sampling, arrived, at_once), 1)

    async def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Asks as ``Engine.ask`` does, and fails as ``generate`` does."""
        return await self._send(self._serving().ask(path, body), 0)

    def free_in_s(self) -> float | None:
        """Seconds until it takes a request, 0 for at once; None when it does not serve, drains, or perhaps does not live."""
        if self.version is None or self.health.suspect or self.gate.shut:
            return None
        return max(0.0, self._rests_until - asyncio.get_running_loop().time())

    def full(self) -> bool:
        """Whether as many responses are under way as may be."""
        return self.responses >= self.limit.value

    def _serving(self) -> Engine:
        if self._engine is None or self.version is None:
            raise EngineError(f"engine {self.index} does not serve", "connection")
        return self._engine

    async def _send(self, call: Coroutine[Any, Any, T], responses: int) -> T:
        failure = self.failure
        self.requests += 1
        self.responses += responses
        request = asyncio.ensure_future(self.gate.through(call))
        # Once the engine has failed nobody awaits the request; asyncio logs errors that were never retrieved.
        request.add_done_callback(lambda request: request.cancelled() or request.exception())
        try:
            await asyncio.wait({request, failure}, return_when=asyncio.FIRST_COMPLETED)
            if not request.done():
                raise EngineError(failure.result(), "restart")
            result = request.result()
            self._rest.reset()
            return result
        except EngineError as error:
            if failure is self.failure:  # else it has been restarted meanwhile, and is blamed for nothing
                self._doubt(error)
            raise
        finally:
            self.requests -= 1
            self.responses -= responses
            request.cancel()
            self.freed()

    def _doubt(self, error: EngineError) -> None:
        if isinstance(error, WeightsError):
            self.fail(str(error))
            return
        if isinstance(error, BusyError):
            self.limit.refused(self.responses)
        else:
            self.health.doubt()
        now, pause = asyncio.get_running_loop().time(), 0.0
        if now >= self._rests_until:  # requests that failed together are one reason to rest
            pause = self._rest.delay()
        if isinstance(error, BusyError) and error.retry_after_s is not None:
            pause = max(pause, min(error.retry_after_s, _LONGEST_RETRY_AFTER_S) * random.uniform(1.0, 1.5))
        self._rests_until = max(self._rests_until, now + pause)
