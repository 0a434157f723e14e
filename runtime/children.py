"""Child processes: started in a session of their own, killed by the kernel when their parent dies, stopped by pid."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Asks the kernel to send this process SIGKILL when the thread that started it ends (Linux).

    Runs in the child between fork and exec, and at the start of processes that others start for us (torchrun's ranks).
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants' orphans (Linux), for whose end it then has to wait."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Child:
    """A subprocess that ends with this process. Start it from the main thread: the kernel watches the thread that forked.

    Args:
        name: its name in messages.
        command: program and arguments.
        log: file that its stdout and stderr are appended to.
        env: its whole environment; None inherits this process's.

    Attributes:
        process: the underlying subprocess.Popen.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its session and process group."""
        return self.process.pid

    def exit_code(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self.process.poll()

    def terminate(self) -> None:
        """Sends SIGTERM to the child alone, which is expected to end its own children."""
        if self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """Sends SIGKILL to every process of the child's group, even when the child itself has ended, and waits for it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def wait(self, deadline: float) -> bool:
        """Waits until the child ends or ``time.monotonic()`` reaches ``deadline``; returns whether it has ended."""
        try:
            self.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def tail(self, lines: int = 20) -> str:
        """Last lines of its log (at most 16 KiB), for an error message."""
        text = self.log.read_bytes()[-16384:].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def stop_all(children: Sequence[Child], grace_s: float) -> None:
    """Stops children: SIGTERM to all, one common grace period, then SIGKILL to the groups of all."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace_s
    for child in children:
        child.wait(deadline)
        child.kill()
