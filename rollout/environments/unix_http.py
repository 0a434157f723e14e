"""Calls of an HTTP server on a unix socket, with the standard library alone: it runs in virtualenvs of any kind."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
from collections.abc import Mapping
from typing import Any, cast

_LARGEST = 1 << 28  # bytes of an answer


class _Received:
    """Bytes that were received, in the place of the socket that ``http.client`` reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


async def post(socket: str, path: str, key: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    """Sends one POST with a JSON body and returns the status and the JSON of the answer.

    Waits for as long as the answer takes: the episode has a limit of its own.

    Args:
        socket: path of the unix socket.
        path: of the request, such as /v1/completions.
        key: bearer token.
        body: sent as JSON.

    Raises:
        OSError: nobody listens, or the connection broke.
        ValueError: the answer is no JSON.
    """
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: worker\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_unix_connection(socket, limit=_LARGEST)
    try:
        writer.write(head.encode() + payload)
        await writer.drain()
        received = await reader.read()
    finally:
        writer.close()
    response = http.client.HTTPResponse(cast("Any", _Received(received)))
    try:
        response.begin()
        return response.status, json.loads(response.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"{socket}{path}: the answer broke off: {error!r}") from error
