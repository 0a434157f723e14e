"""Answers in pieces, as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Protocol

from aiohttp import web

from rollout.endpoint.api_error import Api, ApiError
from rollout.episodes.calls import Answer, Delta, OnDelta

_READ_S = 60.0  # limit for a caller to make room for further events

Start = Callable[[OnDelta], Awaitable[Answer]]


class PiecewiseAnswer(Protocol):
    """An answer that is written as events."""

    def begin(self) -> Iterator[str]:
        """The events before any text."""
        ...

    def piece(self, delta: Delta) -> Iterator[str]:
        """The events of some further text."""
        ...

    def end(self, answer: Answer) -> Iterator[str]:
        """The events that complete the answer."""
        ...


async def send_events(
    request: web.Request,
    start: Start,
    answer: PiecewiseAnswer,
    headers: dict[str, str],
    on_error: Callable[[Exception], str],
) -> web.StreamResponse:
    """Answers a call in pieces.

    Nothing is sent before the first piece of text or the end, so that a call which fails until then gets a status of its own;
    what fails later becomes an event. When the caller hangs up, the generation is cancelled.

    Args:
        request: the call.
        start: begins the generation; it gets a function to call with every piece.
        answer: turns pieces into events.
        headers: further HTTP headers.
        on_error: returns the event of an error that came too late for a status.
    """
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", **headers}
    )
    async with contextlib.aclosing(_pieces(start)) as pieces:
        try:
            async for piece in pieces:
                begun = () if response.prepared else answer.begin()
                if not response.prepared:
                    await response.prepare(request)
                events = answer.end(piece) if isinstance(piece, Answer) else answer.piece(piece)
                await _write(response, "".join((*begun, *events)))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # the handler's own boundary: on_error logs and counts it
            if not response.prepared:
                raise
            await _write(response, on_error(error))
    await response.write_eof()
    return response


def error_event(error: ApiError, api: Api) -> str:
    """Returns the event of an error that came after the first piece; client libraries raise it."""
    body = json.dumps(error.body(api))
    return f"event: error\ndata: {body}\n\n" if api == "anthropic" else f"data: {body}\n\n"


async def _write(response: web.StreamResponse, events: str) -> None:
    """Sends events; a caller that does not read them has hung up."""
    try:
        async with asyncio.timeout(_READ_S):
            await response.write(events.encode())
    except TimeoutError as error:
        raise ConnectionResetError(f"the caller has not read its answer for {_READ_S:g} s") from error


async def _pieces(start: Start) -> AsyncGenerator[Delta | Answer, None]:
    """Yields the pieces of an answer, those that have come together as one, and at last the answer."""
    arrived: asyncio.Queue[Delta | None] = asyncio.Queue()
    call = asyncio.ensure_future(start(arrived.put_nowait))
    call.add_done_callback(lambda _: arrived.put_nowait(None))
    try:
        while (delta := await arrived.get()) is not None:
            ended = False
            while not arrived.empty() and not ended:
                more = arrived.get_nowait()
                ended = more is None
                # Text after reasoning may join it, reasoning after text may not: the order would be lost.
                if more is not None and more.reasoning and delta.text:
                    yield delta
                    delta = more
                elif more is not None:
                    delta = Delta(delta.text + more.text, delta.reasoning + more.reasoning)
            yield delta
            if ended:
                break
        yield await call
    finally:
        if not call.done():
            call.cancel()
            await asyncio.wait([call])
