"""Runs a program, and kills its whole process group when the program ends or the guard's parent dies.

    python parent_death_guard.py PARENT_PID[:REPORT] PROGRAM ARGUMENT...

REPORT is a file descriptor to which it writes the program's exit status.

An inference server forks workers that the kernel does not tie to the rollout worker. While they still import, they would
outlive a worker that was killed with SIGKILL; this small process in between gets SIGTERM from the kernel then, and kills
the group. It imports nothing but the standard library: it has to be armed within milliseconds.
"""

import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1


def _kill_group(*_: object) -> None:
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Runs the program that the command line names; never returns, because the guard belongs to the group it kills."""
    who, *command = sys.argv[1:]
    parent, _, report = who.partition(":")
    signal.signal(signal.SIGTERM, _kill_group)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the kernel was asked
        _kill_group()
    code = subprocess.Popen(command).wait()
    if report:
        os.write(int(report), str(code).encode())
    sys.stderr.write(f"{command[0]} ended with exit code {code}\n")
    sys.stderr.flush()
    _kill_group()


if __name__ == "__main__":
    main()
