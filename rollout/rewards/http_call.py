"""One POST of JSON over HTTP with the standard library, limited in time and size: it runs in virtualenvs of any kind."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_LARGEST = 1 << 20  # bytes of an answer


@dataclass(frozen=True)
class HttpAnswer:
    """What a server answered.

    Attributes:
        status: HTTP status.
        headers: by lower-case name.
        body: at most 1 MiB.
        whole: whether the body was not larger.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = True


def checked_url(url: str, option: str) -> str:
    """Returns a URL that can be called. Raises ValueError, which names the option."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{option} = {url!r}: expected http://host:port/path or https://...")
    return url


async def post_json(url: str, headers: Mapping[str, str], body: Mapping[str, Any], limit_s: float) -> HttpAnswer:
    """Posts JSON and returns the answer, whatever its status. Redirects are answers: a key is sent nowhere else.

    Args:
        url: where to.
        headers: besides those of JSON.
        body: sent as JSON.
        limit_s: limit of all of it, connecting included.

    Raises:
        TimeoutError: the limit was over.
        OSError: nobody listens, or the connection broke.
    """
    call = _Call(url, headers, json.dumps(body, allow_nan=False).encode(), limit_s)
    try:
        async with asyncio.timeout(limit_s):
            return await asyncio.to_thread(call.run)
    finally:
        call.end()  # a thread that waits for a server that drips would stay


class _Call:
    """One call, in a thread; ``end`` breaks it off from another one."""

    def __init__(self, url: str, headers: Mapping[str, str], payload: bytes, limit_s: float) -> None:
        parts = urlsplit(url)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        self._payload = payload
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, parts.port, timeout=limit_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=limit_s)
        self._ended = False

    def run(self) -> HttpAnswer:
        try:
            self._connection.request("POST", self._target, self._payload, self._headers)
            response = self._connection.getresponse()
            body = response.read(_LARGEST + 1)
            headers = {name.lower(): value for name, value in response.getheaders()}
            return HttpAnswer(response.status, headers, body[:_LARGEST], len(body) <= _LARGEST)
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"no answer of HTTP: {error!r}") from error
        finally:
            self._connection.close()

    def end(self) -> None:
        held = self._connection.sock
        if held is not None:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
