"""One host as its worker sees it: started when first needed and again after its end, asked many things at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from rollout.environments.child_host import ChildHost
from rollout.environments.description import TaskDescription
from rollout.environments.launch_order import LaunchOrder
from rollout.environments.launched_host import LaunchedHost
from rollout.environments.loading import TaskSpec
from rollout.tasks import TaskError
from rollout.tasks.reward_error import Reason
from runtime.errors import LeewayError

_START_S = 60.0  # limit of a host's imports, which can take seconds
_LOAD_S = 1800.0  # limit of loading a task's data, which may be fetched from somewhere
_GRACE_S = 3.0  # in which a request ends that is cancelled
_END_S = 10.0  # in which a process ends that was killed
_TAIL = 2000  # bytes of its log in a message


class HostDiedError(LeewayError):
    """A host that did not start, ended, or was killed. Its requests may be made again, of another one."""


class RequestError(LeewayError):
    """A request that user code did not fulfil: it raised, or returned what it must not.

    Attributes:
        reason: why a judge did not judge, where it says so itself.
    """

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason: Reason | None = reason


@dataclass(frozen=True)
class HostSettings:
    """How hosts are started.

    Attributes:
        spec: what they run.
        load: whether they make prompts, and need the task's data.
        python: the interpreter; None: that of whoever starts them.
        path: directory that PYTHONPATH begins with; None: what this process has.
        launcher: unix socket of the launcher that starts them; None: they are child processes.
        memory_mb: MiB of memory at which a launcher kills them; None: no limit. Others are looked after by the pool.
    """

    spec: TaskSpec
    load: bool
    python: Path | None = None
    path: Path | None = None
    launcher: Path | None = None
    memory_mb: int | None = None


class HostProcess:
    """A host.

    Args:
        settings: how it is started.
        log: file that its output is appended to.
    """

    def __init__(self, settings: HostSettings, log: Path) -> None:
        self._settings = settings
        self.log = log
        self._host: ChildHost | LaunchedHost | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._starting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._numbers = 0
        self._description: TaskDescription | None = None
        self.starts = 0

    @property
    def requests(self) -> int:
        """Number of requests under way."""
        return len(self._waiting)

    @property
    def pid(self) -> int | None:
        """Process id, and id of its session; None while there is no process, and of one that a launcher has started."""
        return None if self._host is None else self._host.pid

    async def described(self) -> TaskDescription:
        """Starts the host if it does not run, and returns what it runs.

        Raises:
            HostDiedError: it did not start.
            TaskError: there is no such task, or its data cannot be used.
        """
        async with self._starting:
            if self._host is None or self._description is None:
                self._description = await self._start()
            return self._description

    async def request(self, asked: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Makes a request and returns its answer.

        Raises:
            TimeoutError: it was not done within the limit. It has been ended; where that was not possible, the host was
                killed, because nothing else stops code that hangs.
            RequestError: user code failed.
            HostDiedError: the host did not start, ended, or was killed.
            TaskError: there is no such task.
        """
        await self.described()
        number, answer = self._send(asked)
        try:
            async with asyncio.timeout(limit_s):
                found = await asyncio.shield(answer)
        except TimeoutError:
            await self._end(number, answer)
            raise
        except asyncio.CancelledError:
            self._write({"cancel": number})
            raise
        finally:
            self._waiting.pop(number, None)
        if "error" in found:
            raise RequestError(found["error"], found.get("reason"))
        if "cancelled" in found:
            raise RequestError("the environment cancelled itself: asyncio.CancelledError was let through")
        return found

    async def kill(self, why: str) -> None:
        """Kills the process with its group, if there is one, and waits for its end; its requests raise HostDiedError.

        Args:
            why: what those errors say.
        """
        host, self._host = self._host, None
        if host is not None:
            host.kill()
            self._fail(why)
        if self._reading is not None:  # also of a process that has ended by itself: it is waited for there
            await asyncio.wait([self._reading], timeout=_END_S)

    def tail(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read().decode(errors="replace")
        return ""

    def _send(self, asked: Mapping[str, Any]) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        self._numbers += 1
        answer = self._waiting[self._numbers] = asyncio.get_running_loop().create_future()
        self._write({"id": self._numbers, **asked})
        return self._numbers, answer

    def _write(self, message: Mapping[str, Any]) -> None:
        if self._host is not None and not self._host.requests.is_closing():
            self._host.requests.write(json.dumps(message).encode() + b"\n")

    async def _end(self, number: int, answer: asyncio.Future[dict[str, Any]]) -> None:
        """Ends a request whose time is over; kills the host when it does not obey."""
        self._write({"cancel": number})
        try:
            async with asyncio.timeout(_GRACE_S):
                with contextlib.suppress(HostDiedError):
                    await asyncio.shield(answer)
        except TimeoutError:
            self._waiting.pop(number, None)
            answer.cancel()
            await self.kill("its process was killed, because another of its episodes did not end at its time limit")

    async def _start(self) -> TaskDescription:
        await self.kill("restarted")
        self.starts += 1
        limit_s = _LOAD_S if self._settings.load else _START_S
        told = self._waiting[0] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit_s):
                self._host = host = await self._opened()
                self._reading = asyncio.create_task(self._read(host))
                self._write({"spec": asdict(self._settings.spec), "load": self._settings.load})
                answer = await asyncio.shield(told)
        except TimeoutError as error:
            told.cancel()
            await self.kill("")
            raise HostDiedError(f"its process did not start within {limit_s:g} s{self._launcher()}") from error
        except OSError as error:
            raise HostDiedError(f"its process did not start: {error}{self._launcher()}") from error
        finally:
            self._waiting.pop(0, None)
        if "error" in answer:
            raise TaskError(answer["error"])
        task = answer["task"]
        return TaskDescription(**{**task, "stop": tuple(task["stop"])})

    async def _opened(self) -> ChildHost | LaunchedHost:
        settings = self._settings
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            if settings.launcher is None:
                return await ChildHost.start(settings.python, settings.path, log)
            order = LaunchOrder(str(settings.python or ""), settings.memory_mb)
            return await LaunchedHost.start(settings.launcher, order, log)

    def _launcher(self) -> str:
        """What an error about a start says of who should have started it."""
        return (
            f" (by the launcher at environments.socket = {self._settings.launcher})" if self._settings.launcher else ""
        )

    async def _read(self, host: ChildHost | LaunchedHost) -> None:
        """Hands out answers until the host ends."""
        try:
            while line := await host.answers.readline():
                answer = json.loads(line)
                waiting = self._waiting.get(answer["id"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
        ) as error:  # an answer that is too long, or none of a host's
            self._fail(f"its process failed: {error!r}")
        unexpected = self._host is host
        if unexpected:
            self._host = None
            host.kill()
        why = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                why = await host.ended()
        if why:
            structlog.get_logger().error("environment killed", log=str(self.log), error=why)
        if unexpected:
            self._fail(why or f"its process ended; {self.log} ends with {self.tail()[-300:]!r}")

    def _fail(self, why: str) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(HostDiedError(why))
