"""A server of HTTP that answers as its script says, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Scripted:
    """One answer.

    Attributes:
        status: HTTP status.
        body: bytes, or what becomes JSON.
        headers: besides the length.
        how: answer; hang: never; drip: a byte at a time, for ever; endless: a body without end; close: break the connection;
            garbage: no HTTP.
    """

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    how: Literal["answer", "hang", "drip", "endless", "close", "garbage"] = "answer"


class ScriptedServer:
    """Answers the n-th request with the n-th entry of its script, and the last one from then on.

    Attributes:
        url: where it listens.
        requests: (headers, JSON) of the requests so far.
        most_at_once: most requests under way at once.
    """

    def __init__(self) -> None:
        self.url = ""
        self.script: list[Scripted] = []
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._under_way = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, *script: Scripted) -> AsyncIterator[ScriptedServer]:
        """Serves until the block ends."""
        server = cls()
        server.script = list(script)
        serving = await asyncio.start_server(server._serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{serving.sockets[0].getsockname()[1]}"
        tasks: set[asyncio.Task[Any]] = set()
        server._tasks = tasks  # type: ignore[attr-defined]
        try:
            yield server
        finally:
            serving.close()
            for task in tasks:
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)  # type: ignore[attr-defined]
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)  # type: ignore[attr-defined]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if value
        }
        body = await reader.readexactly(int(headers["content-length"]))
        number = len(self.requests)
        self.requests.append((headers, json.loads(body)))
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        await self.gate.wait()
        self._under_way -= 1
        scripted = self.script[min(number, len(self.script) - 1)]
        if scripted.how == "hang":
            await asyncio.Event().wait()
        if scripted.how == "close":
            return
        if scripted.how == "garbage":
            writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            await writer.drain()
            return
        if scripted.how == "endless":
            writer.write(b"HTTP/1.1 200 Scripted\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        payload = scripted.body if isinstance(scripted.body, bytes) else json.dumps(scripted.body).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in scripted.headers.items())
        writer.write(f"HTTP/1.1 {scripted.status} Scripted\r\nContent-Length: {len(payload)}\r\n{extra}".encode())
        if scripted.how == "drip":
            writer.write(b"X-Slow: ")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.write(b"\r\n" + payload)
        await writer.drain()


def said(text: Any, tokens: int = 10) -> Scripted:
    """A chat completion."""
    return Scripted(
        {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"total_tokens": tokens}}
    )
