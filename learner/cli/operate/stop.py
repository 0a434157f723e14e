"""`leeway stop`: ends the `leeway up` of a run, which ends its processes and saves a checkpoint."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator

from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_file import RunFile
from learner.cli.run.summary import read_summary

_BEYOND_GRACE_S = 30.0  # for gateway, Redis and the report of the end
_AT_ONCE_S = 30.0


def stop_run(run: RunDirectory, wait_s: float | None, say: Callable[[str], None]) -> bool:
    """Stops a run and says what happened.

    The first signal lets the learner save a checkpoint. A second one ends the run at once, where it is still there after
    ``wait_s``.

    Args:
        run: the run.
        wait_s: seconds before the second signal; None: the run's learner.stop_grace_s and 30 s.
        say: called with each line for the user.

    Returns:
        Whether the run does not go on.

    Raises:
        RunError: the run goes on in a process that cannot be stopped from here.
    """
    if not run.is_locked():
        say(f"{run.root}: not in progress{_state(run)}")
        return True
    with supervisor(run) as (pid, handle):
        grace_s = RunFile.read(run.root).learner.stop_grace_s + _BEYOND_GRACE_S if wait_s is None else wait_s
        say(f"stopping process {pid}; it has {grace_s:g} s")
        if not _ends(handle, signal.SIGTERM, grace_s):
            say(f"process {pid} is still there after {grace_s:g} s: ending it at once")
            if not _ends(handle, signal.SIGTERM, _AT_ONCE_S):
                say(f"process {pid} did not end in another {_AT_ONCE_S:g} s; look at {run.logs}")
                return False
    say(f"{run.root}: stopped{_state(run)}; continue with: leeway up {run.root} --resume")
    return True


@contextlib.contextmanager
def supervisor(run: RunDirectory) -> Iterator[tuple[int, int]]:
    """Finds the process that has locked a run; yields its id and a handle (pidfd) that stays that process's.

    Raises:
        RunError: it is not a process of this machine that we may signal.
    """
    pid = _locker(run)
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        raise _elsewhere(run, pid) from error
    try:
        # After the handle was made: a process id that was given to another process meanwhile has not our file open.
        if not _has_open(pid, run):
            raise _elsewhere(run, pid)
        yield pid, handle
    finally:
        os.close(handle)


def _locker(run: RunDirectory) -> int:
    try:
        return int((run.root / "lock").read_text())
    except ValueError as error:
        raise RunError(f"{run.root}/lock: no process id in it; the run begins just now: try again") from error


def _has_open(pid: int, run: RunDirectory) -> bool:
    lock = (run.root / "lock").stat()
    try:
        descriptors = list(os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            found = os.stat(descriptor.path)
            if (found.st_dev, found.st_ino) == (lock.st_dev, lock.st_ino):
                return True
    return False


def _elsewhere(run: RunDirectory, pid: int) -> RunError:
    return RunError(
        f"{run.root}: the run is in progress, but not in process {pid} of this machine and this user; stop it where it was "
        "started"
    )


def _ends(handle: int, number: signal.Signals, limit_s: float) -> bool:
    """Sends a signal and waits; returns whether the process has ended."""
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        signal.pidfd_send_signal(handle, number)
    poll = select.poll()
    poll.register(handle, select.POLLIN)  # readable when the process has ended
    return bool(poll.poll(limit_s * 1000))


def _state(run: RunDirectory) -> str:
    summary = read_summary(run)
    return f" ({summary['status']} at step {summary['steps']})" if summary else ""
