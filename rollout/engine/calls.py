"""HTTP calls to one server, with a time limit each, whose every failure is an EngineError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp

from rollout.engine.answers import BUSY, NO_KEY, REFUSALS
from rollout.engine.errors import BusyError, EngineError, RefusedError, WeightsError

_CONNECT_S = 10.0


class ServerCalls:
    """The HTTP calls to the server at a URL.

    Args:
        url: http://host:port.
        session: shared; its own timeouts do not apply.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def get(self, path: str, timeout_s: float) -> tuple[int, Any]:
        """Returns the status, and the JSON of the answer; None where it is none.

        Raises:
            EngineError: no answer within the limit.
        """
        limit = aiohttp.ClientTimeout(total=timeout_s)
        async with self._call(path, timeout_s), self._session.get(self.url + path, timeout=limit) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith(("{", "[")) else None

    async def post(self, path: str, body: dict[str, Any], timeout_s: float) -> Any:
        """Returns the JSON of the answer, or its text.

        Raises:
            RefusedError: the server refuses the request.
            BusyError: it has too much to do.
            EngineError: no answer within the limit, or an error.
        """
        limit = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            self._call(path, timeout_s),
            self._session.post(self.url + path, json=body, timeout=limit) as response,
        ):
            await self._require_ok(path, response)
            text = await response.text()
            return json.loads(text) if text.startswith(("{", "[")) else text

    async def pieces(self, path: str, body: dict[str, Any], silence_s: float) -> AsyncGenerator[Any, None]:
        """Yields the JSON of each server-sent event as it arrives.

        Args:
            path: of the request.
            body: of the request.
            silence_s: the longest time without a byte.

        Raises:
            RefusedError, BusyError, EngineError: as ``post`` does; also when the connection ends early.
        """
        limit = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=silence_s)
        async with (
            self._call(path, silence_s),
            self._session.post(self.url + path, json=body, timeout=limit) as response,
        ):
            await self._require_ok(path, response)
            rest = bytearray()
            async for received in response.content.iter_any():
                searched = max(len(rest) - 1, 0)  # a piece may have megabytes, and must not be searched again and again
                rest += received
                if rest.find(b"\n\n", searched) < 0:
                    continue
                *events, last = bytes(rest).split(b"\n\n")
                rest = bytearray(last)
                for event in events:
                    if event.startswith(b"data: {"):
                        yield json.loads(event[6:])

    async def _require_ok(self, path: str, response: aiohttp.ClientResponse) -> None:
        if response.status == 200:
            return
        said = f"{self.url}{path}: HTTP {response.status}: {(await response.text())[:500]}"
        if response.status in REFUSALS:
            raise RefusedError(said, too_large=response.status == 413)
        if response.status in BUSY:
            raise BusyError(said, _seconds(response.headers.get("Retry-After", "")))
        if response.status in NO_KEY:
            raise WeightsError(f"{said}: it was started again, with another key than that of engine.key_file", "status")
        raise EngineError(said, "status")

    @contextlib.asynccontextmanager
    async def _call(self, path: str, timeout_s: float) -> AsyncIterator[None]:
        """Converts every error of a call to EngineError."""
        try:
            yield
        except TimeoutError as error:
            raise EngineError(f"{self.url}{path}: no answer within {timeout_s:g} s", "timeout") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise EngineError(f"{self.url}{path}: {type(error).__name__}: {error}", "connection") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise EngineError(f"{self.url}{path}: {type(error).__name__}: {error}") from error


def _seconds(retry_after: str) -> float | None:
    """Reads a Retry-After header in seconds; None for one that is absent, or a date."""
    return float(retry_after) if retry_after.isdecimal() else None
