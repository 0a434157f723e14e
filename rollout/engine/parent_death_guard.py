"""Runs a program, and ends its whole process group when the program ends or our own parent dies.

    python guard.py PARENT_PID PROGRAM ARGUMENT...

An inference server forks workers that the kernel does not tie to us. While they still import they would outlive a parent
that was killed with SIGKILL; this small process in between is told by the kernel (SIGTERM), and takes the group with it.
It imports nothing of ours: it has to be armed within milliseconds.
"""

import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1


def _end_group(*_: object) -> None:
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    parent, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, _end_group)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the kernel was asked
        _end_group()
    code = subprocess.Popen(command).wait()
    sys.stderr.write(f"{command[0]} ended with exit code {code}\n")
    sys.stderr.flush()
    _end_group()


if __name__ == "__main__":
    main()
