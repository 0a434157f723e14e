"""Sends each request to an engine that takes it, and again to one that does then, until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from rollout.engine.busy_clock import BusyClock
from rollout.engine.draft import ResponseDraft
from rollout.engine.errors import BusyError, EngineError, NotFiniteError
from rollout.engine.lane import RequestLane
from rollout.engine.lanes import Lanes
from rollout.engine.observer import Observer
from rollout.engine.response import Response
from rollout.engine.sampling import Sampling
from rollout.engine.token_counts import Discard, TokenCounts

_ATTEMPTS = 3  # of one request, each on an engine that serves then: a request that nobody can answer must end


class Dispatcher:
    """Requests to whichever engines a pool has.

    Args:
        lanes: the ways to the engines.
        observer: hears of requests that failed.

    Attributes:
        clock: seconds with and without a request under way on any engine.
        tokens: counts of tokens that arrived.
    """

    def __init__(self, lanes: Lanes, observer: Observer) -> None:
        self.clock = BusyClock()
        self.tokens = TokenCounts()
        self._lanes = lanes
        self._observer = observer

    async def batch(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates one response for each prompt in one request. Raises as ``EnginePool.generate`` does."""
        failed = 0
        while True:
            lane = await self._lanes.for_batch()
            self.clock.enter()
            try:
                responses = await lane.generate(prompts, sampling)
            except EngineError as error:
                failed += not isinstance(error, BusyError)
                self._note_failure(lane, error, failed)
                if failed == _ATTEMPTS or isinstance(error, NotFiniteError):
                    raise
            else:
                self.tokens.received += sum(len(response.tokens) for response in responses)
                return responses
            finally:
                self.clock.leave()

    async def response(self, draft: ResponseDraft, affinity: str, at_once: bool) -> Response:
        """Completes one response. Raises as ``EnginePool.generate_one`` does.

        Args:
            draft: it, without a token yet.
            affinity: its group.
            at_once: every token is wanted as soon as it is made.
        """
        lost: Discard | None = "failed"
        try:
            response = await self._complete(draft, affinity, at_once)
            lost = None
            return response
        except NotFiniteError:
            lost = "nan"
            raise
        except asyncio.CancelledError:
            lost = "cancelled"
            raise
        finally:
            self.tokens.received += len(draft.tokens) + draft.surplus
            self.tokens.discarded["stop_text"] += draft.surplus
            if lost is not None:
                self.tokens.discarded[lost] += len(draft.tokens)

    async def _complete(self, draft: ResponseDraft, affinity: str, at_once: bool) -> Response:
        fruitless = 0  # attempts in a row without a new token
        while True:
            lane, before = await self._lanes.for_response(affinity), len(draft.tokens)
            self.tokens.continued += before > 0
            self.clock.enter()
            try:
                part = await lane.generate_one(*draft.remainder(), draft.arrived, at_once)
                if (response := draft.complete(part)) is not None:
                    return response
                fruitless = 0 if len(draft.tokens) > before else fruitless + 1
                if fruitless == _ATTEMPTS:
                    return draft.aborted(part.message)
            except EngineError as error:
                if not isinstance(error, NotFiniteError) and (response := draft.salvaged()) is not None:
                    return response
                fruitless = 0 if len(draft.tokens) > before else fruitless + (not isinstance(error, BusyError))
                self._note_failure(lane, error, fruitless)
                if fruitless == _ATTEMPTS or isinstance(error, NotFiniteError):
                    raise
            finally:
                self.clock.leave()

    def _note_failure(self, lane: RequestLane, error: EngineError, failed: int) -> None:
        self._observer.request_failed(lane.index, error.failure)
        if failed:  # one that has got further goes on, and an engine that dies ends hundreds
            structlog.get_logger().warning("generation failed", engine=lane.index, failures=failed, error=str(error))
