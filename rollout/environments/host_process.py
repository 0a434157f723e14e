"""One host as its worker sees it: started when first needed and again after its end, asked many things at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rollout.environments.command_agent import GUARD
from rollout.environments.description import TaskDescription
from rollout.environments.loading import TaskSpec
from rollout.tasks import TaskError
from rollout.tasks.reward_error import Reason
from runtime.errors import LeewayError

_START_S = 60.0  # limit of a host's imports, which can take seconds
_LOAD_S = 1800.0  # limit of loading a task's data, which may be fetched from somewhere
_GRACE_S = 3.0  # in which a request ends that is cancelled
_END_S = 10.0  # in which a process ends that was killed
_LONGEST_LINE = 1 << 28  # bytes
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
        python: the interpreter.
        path: directory that PYTHONPATH begins with; None: what this process has.
    """

    spec: TaskSpec
    load: bool
    python: Path
    path: Path | None = None


class HostProcess:
    """A host.

    Args:
        settings: how it is started.
        log: file that its output is appended to.
    """

    def __init__(self, settings: HostSettings, log: Path) -> None:
        self._settings = settings
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
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
        """Process id, and id of its session; None while there is no process."""
        return None if self._process is None else self._process.pid

    async def described(self) -> TaskDescription:
        """Starts the host if it does not run, and returns what it runs.

        Raises:
            HostDiedError: it did not start.
            TaskError: there is no such task, or its data cannot be used.
        """
        async with self._starting:
            if self._process is None or self._description is None:
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
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
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
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

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
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-S", "-E", str(GUARD), str(os.getpid())]
        command += [str(self._settings.python), "-m", "rollout.environments.host"]
        try:
            with self.log.open("ab") as output:
                self._process = process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=output,
                    start_new_session=True,
                    limit=_LONGEST_LINE,
                    env=self._environment(),
                )
        except OSError as error:
            raise HostDiedError(f"its process did not start: {error}") from error
        assert process.stdout
        told = self._waiting[0] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(process, process.stdout))
        self._write({"spec": asdict(self._settings.spec), "load": self._settings.load})
        limit_s = _LOAD_S if self._settings.load else _START_S
        try:
            async with asyncio.timeout(limit_s):
                answer = await asyncio.shield(told)
        except TimeoutError as error:
            told.cancel()
            await self.kill("")
            raise HostDiedError(f"its process did not start within {limit_s:g} s") from error
        finally:
            self._waiting.pop(0, None)
        if "error" in answer:
            raise TaskError(answer["error"])
        task = answer["task"]
        return TaskDescription(**{**task, "stop": tuple(task["stop"])})

    def _environment(self) -> dict[str, str]:
        if self._settings.path is None:
            return dict(os.environ)
        path = os.pathsep.join(filter(None, (str(self._settings.path), os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": path}

    async def _read(self, process: asyncio.subprocess.Process, answers: asyncio.StreamReader) -> None:
        """Hands out answers until the process ends."""
        try:
            while line := await answers.readline():
                answer = json.loads(line)
                waiting = self._waiting.get(answer["id"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except (OSError, ValueError) as error:  # an answer that is too long or no JSON
            self._fail(f"its process failed: {error!r}")
        if self._process is process:
            self._process = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._fail(f"its process ended; {self.log} ends with {self.tail()[-300:]!r}")
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(OSError):
                await process.stdin.wait_closed()

    def _fail(self, why: str) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(HostDiedError(why))
