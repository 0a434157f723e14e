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
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Asks the kernel to SIGKILL this process when the thread that started it ends (Linux).

    Runs in the child between fork and exec, and at the start of processes that others start for us (torchrun's ranks).
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Child:
    """A subprocess of ours. Start it from the main thread: the kernel watches the thread that forked.

    Args:
        name: what messages call it.
        command: program and arguments.
        log: file that receives stdout and stderr, appended.
        env: the whole environment of the child; ours when None.
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
        return self.process.pid

    def exit_code(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self.process.poll()

    def terminate(self) -> None:
        """SIGTERM to the child alone; it ends its own children."""
        if self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """SIGKILL to the child's whole session, whatever state its leader is in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def wait(self, deadline: float) -> bool:
        """Waits until ``time.monotonic()`` reaches ``deadline``; True when the child has ended."""
        try:
            self.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log, for an error message."""
        text = self.log.read_bytes()[-16384:].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def stop_all(children: Sequence[Child], grace_s: float) -> None:
    """SIGTERM to all, one common grace period, then SIGKILL to the sessions of those that remain."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace_s
    for child in children:
        child.wait(deadline)
        child.kill()
