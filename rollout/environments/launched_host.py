"""A host that a launcher has started: in another container perhaps, where the worker's files and keys are not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import BinaryIO

import structlog

from rollout.environments.child_host import LONGEST_LINE
from rollout.environments.launch_order import LaunchOrder

_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_AGAIN_S = 0.2  # until a launcher that is not there is asked again


class LaunchedHost:
    """A host that lives for as long as its connection to the launcher; make it with ``LaunchedHost.start``.

    Its requests, its answers and its log go by files of its own, which the launcher was given and has passed on; over the
    connection the launcher alone speaks.

    Attributes:
        pid: None: process ids of another container mean nothing here.
        requests: where its requests are written.
        answers: where its answers are read.
    """

    pid: int | None = None

    def __init__(self, control: _Stream, requests: _Stream, answers: _Stream) -> None:
        self._said, self._control = control
        self.answers = answers[0]
        self.requests = requests[1]
        self._ends = [control[1], requests[1], answers[1]]

    @classmethod
    async def start(cls, launcher: Path, order: LaunchOrder, log: BinaryIO) -> LaunchedHost:
        """Has one started; waits for a launcher that is not there yet, for as long as the caller does.

        Args:
            launcher: the launcher's unix socket.
            order: what is started.
            log: where its stderr goes.

        Raises:
            OSError: it did not start.
        """
        async with contextlib.AsyncExitStack() as stack:
            control = stack.enter_context(await _connected(launcher))
            requests, theirs_to_read = (stack.enter_context(end) for end in socket.socketpair())
            answers, theirs_to_write = (stack.enter_context(end) for end in socket.socketpair())
            files = [theirs_to_read.fileno(), theirs_to_write.fileno(), log.fileno()]
            socket.send_fds(control, [order.line()], files)
            theirs_to_read.close()
            theirs_to_write.close()
            streams: list[_Stream] = []
            for end in (control, requests, answers):
                streams.append(await asyncio.open_unix_connection(sock=end, limit=LONGEST_LINE))
                # Before its socket is closed: the event loop would take the next socket of that number for this one.
                stack.callback(streams[-1][1].transport.abort)
            told = json.loads(await streams[0][0].readline() or b'{"error": "the launcher has ended"}')
            if "error" in told:
                raise ConnectionError(told["error"])
            stack.pop_all()  # they stay open
            return cls(*streams)

    def kill(self) -> None:
        """Has the launcher kill it with its process group: that is what the end of the connection means."""
        with contextlib.suppress(OSError):
            self._control.get_extra_info("socket").shutdown(socket.SHUT_WR)

    async def ended(self) -> str:
        """Waits until the launcher has seen its end, and returns why the launcher killed it; empty if it did not."""
        said = b""
        with contextlib.suppress(OSError):
            said = await self._said.readline()
        for end in self._ends:
            end.close()
        return json.loads(said)["why"] if said else "its process ended with its launcher"


async def _connected(launcher: Path) -> socket.socket:
    told = False
    while True:
        control = socket.socket(socket.AF_UNIX)
        control.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(control, str(launcher))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            control.close()
            if not told:
                structlog.get_logger().warning("waiting for the launcher", socket=str(launcher), error=str(error))
            told = True
            await asyncio.sleep(_AGAIN_S)
        except BaseException:
            control.close()
            raise
        else:
            return control
