"""A host as a child process of its worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import BinaryIO

from rollout.environments.guard import host_command, host_environment

LONGEST_LINE = 1 << 28  # bytes of an answer


class ChildHost:
    """A host that the worker has started itself; make it with ``ChildHost.start``.

    Attributes:
        requests: where its requests are written.
        answers: where its answers are read.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self.requests = process.stdin
        self.answers = process.stdout

    @classmethod
    async def start(cls, python: Path | None, path: Path | None, log: BinaryIO) -> ChildHost:
        """Starts one, in a session of its own.

        Args:
            python: its interpreter; None: the worker's.
            path: directory that PYTHONPATH begins with; None: as it is.
            log: where its stderr goes.

        Raises:
            OSError: it did not start.
        """
        return cls(
            await asyncio.create_subprocess_exec(
                *host_command(python),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=LONGEST_LINE,
                env=host_environment(path),
            )
        )

    @property
    def pid(self) -> int | None:
        """Process id, and id of its session."""
        return self._process.pid

    def kill(self) -> None:
        """Kills it with its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def ended(self) -> str:
        """Waits until it has ended, and returns why it was killed, which nobody knows here: nothing."""
        await self._process.wait()
        self.requests.close()
        with contextlib.suppress(OSError):
            await self.requests.wait_closed()
        return ""
