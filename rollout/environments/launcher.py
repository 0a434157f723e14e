"""A launcher of hosts: starts one for each connection to its unix socket, and kills it when the connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from rollout.environments.guard import host_command, host_environment
from rollout.environments.launch_order import FILES, LaunchOrder, line
from rollout.environments.memory_watch import memory_of_session

_ORDER_S = 10.0  # in which a connection says what it wants
_ORDER_BYTES = 1 << 16
_WATCH_S = 0.5  # between two looks at a host's memory
_END_S = 10.0  # in which a process ends that was killed


class Launcher:
    """Starts hosts.

    Args:
        imports: directory of our own rooms, for hosts with an interpreter of their own.
    """

    def __init__(self, imports: Path) -> None:
        self._imports = imports
        self._ended: dict[int, asyncio.Future[None]] = {}

    async def serve(self, listening: socket.socket) -> None:
        """Takes connections until it is cancelled; kills all hosts then."""
        loop = asyncio.get_running_loop()
        # As the first process of a container it also gets the orphans of agents, whom nobody else waits for.
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        try:
            async with asyncio.TaskGroup() as connections:
                while True:
                    connection, _ = await loop.sock_accept(listening)
                    connections.create_task(self._answer(connection))
        finally:
            for pid in self._ended:
                _kill(pid)

    async def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the worker is gone
            try:
                async with asyncio.timeout(_ORDER_S):
                    files, order = await _order(connection)
            except (OSError, ValueError, TypeError) as error:
                _say(f"no order: {error!r}")
                connection.send(line({"error": f"the launcher did not understand its order: {error!r}"}))
                return
            if order is None:
                connection.send(line({"hosts": len(self._ended)}))
                return
            try:
                pid = self._start(order, files)
            except OSError as error:
                connection.send(line({"error": f"the launcher could not start it: {error}"}))
                return
            finally:
                for file in files:
                    os.close(file)
            with contextlib.suppress(OSError):
                connection.send(line({"started": pid}))
            why = await self._watch(pid, order, connection)
            connection.send(line({"why": why}))

    def _start(self, order: LaunchOrder, files: list[int]) -> int:
        python = Path(order.python) if order.python else None
        command = host_command(python)
        pid = os.posix_spawn(
            command[0],
            command,
            host_environment(self._imports if python else None),
            file_actions=[(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)],
            setsid=True,
            setsigdef=[signal.SIGPIPE],
        )
        self._ended[pid] = asyncio.get_running_loop().create_future()
        return pid

    async def _watch(self, pid: int, order: LaunchOrder, connection: socket.socket) -> str:
        """Waits for the end of a host, its connection or its memory; returns why it was killed, empty if it was not."""
        ended, why = self._ended[pid], ""
        with _hung_up(connection) as gone:
            while not ended.done() and not gone.is_set():
                waiting = asyncio.create_task(gone.wait())
                await asyncio.wait([ended, waiting], timeout=_WATCH_S, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                used = 0 if order.memory_mb is None else memory_of_session(pid) >> 20
                if order.memory_mb is not None and used > order.memory_mb and not ended.done():
                    limit = f"task.limits.memory_mb = {order.memory_mb}"
                    why = f"its process was killed: it and what it started had {used} MiB, {limit}"
                    break
        _kill(pid)
        await asyncio.wait([ended], timeout=_END_S)
        return why

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (ended := self._ended.pop(pid, None)) is not None:
                _kill(pid)  # what is left of its group
                ended.set_result(None)


async def _order(connection: socket.socket) -> tuple[list[int], LaunchOrder | None]:
    """Reads what a connection wants: a host, with its files, or to hear that the launcher lives, which is no order."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    text, files, _, _ = socket.recv_fds(connection, _ORDER_BYTES, FILES)
    try:
        asked = json.loads(text)
        if asked == {}:
            return files, None
        if len(files) != FILES:
            raise ValueError(f"{len(files)} files, expected {FILES}")
        return files, LaunchOrder(**asked)
    except (ValueError, TypeError):
        for file in files:
            os.close(file)
        raise


@contextlib.contextmanager
def _hung_up(connection: socket.socket) -> Iterator[asyncio.Event]:
    """An event that is set when the other end of a connection is closed, whatever lies unread in it."""
    gone, loop = asyncio.Event(), asyncio.get_running_loop()
    with contextlib.closing(select.epoll()) as poll:
        poll.register(connection, select.EPOLLRDHUP)
        loop.add_reader(poll.fileno(), gone.set)
        try:
            yield gone
        finally:
            loop.remove_reader(poll.fileno())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _say(what: str) -> None:
    sys.stderr.write(f"launcher: {what}\n")
