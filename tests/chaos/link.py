"""TCP links between processes that can be cut, silenced and healed without either end being told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

Address = tuple[str, int]


class Links:
    """A thread that carries the bytes of all links."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._links: list[Link] = []

    def to(self, target: Callable[[], Address]) -> Link:
        """Opens a link on a free port of loopback. ``target`` is called for each connection, so the target may move."""

        async def make() -> Link:
            link = Link(target)
            await link.listen()
            return link

        self._links.append(self.do(make()))
        return self._links[-1]

    def do(self, work: Any) -> Any:
        """Runs a coroutine in the thread and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def cut(self, link: Link) -> None:
        """Ends every connection of a link at once; new ones may be made."""
        self.do(link.cut())

    def silence(self, link: Link, silent: bool) -> None:
        """Stops forwarding bytes without telling either end, as when packets are dropped; ``silent=False`` goes on."""
        self.do(link.silence(silent))

    def close(self) -> None:
        """Cuts everything and ends the thread."""
        for link in self._links:
            self.do(link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Link:
    """A listening address that forwards its connections. Made by ``Links``; its coroutines run in that thread.

    Attributes:
        address: host:port to connect to.
    """

    def __init__(self, target: Callable[[], Address]) -> None:
        self.address = ""
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def silence(self, silent: bool) -> None:
        if silent:
            self._open.clear()
        else:
            self._open.set()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._open.wait()
            upstream, downstream = await asyncio.open_connection(*self._target())
            writers.append(downstream)
            ways = [asyncio.create_task(self._pump(*way)) for way in ((reader, downstream), (upstream, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # nobody listens there now: the client's connection ends, as it would without us
        finally:
            for end in writers:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
