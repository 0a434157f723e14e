"""A TCP proxy in front of Redis that loses replies on demand: the command has run, but its client does not learn of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class LossyProxy:
    """A proxy that forwards everything until ``lose_reply_to`` is set.

    Attributes:
        lose_reply_to: when a client sends these bytes, the server gets them, and the connection is cut on its reply.
        lost: how many replies were lost.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.lose_reply_to: bytes | None = None
        self.lost = 0
        self._target = target
        self._connections: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards a client's new connection."""
        self._connections.add(asyncio.create_task(self._handle(reader, writer)))

    async def close(self) -> None:
        """Cuts every connection."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(*self._target)
        doomed = asyncio.Event()

        async def there() -> None:
            while data := await reader.read(1 << 16):
                if self.lose_reply_to and self.lose_reply_to in data:
                    self.lose_reply_to = None
                    doomed.set()
                downstream.write(data)

        async def back() -> None:
            while data := await upstream.read(1 << 16):
                if doomed.is_set():
                    self.lost += 1
                    return
                writer.write(data)

        tasks = [asyncio.create_task(there()), asyncio.create_task(back())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, downstream):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


@contextlib.asynccontextmanager
async def lossy(url: str) -> AsyncIterator[tuple[LossyProxy, str]]:
    """Runs a proxy in front of the Redis at ``url``; yields it and its own URL."""
    credentials, _, address = url.rpartition("@")
    host, _, port = address.partition("/")[0].partition(":")
    proxy = LossyProxy((host, int(port)))
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    async with server:
        own = server.sockets[0].getsockname()[1]
        yield proxy, f"{credentials}@127.0.0.1:{own}/0"
        await proxy.close()
