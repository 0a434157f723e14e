"""Stands in for `srun` and `scontrol` where there is no Slurm: nodes are loopback addresses, and tasks run on this machine.

`python -m tests.deploy.slurm_standin srun|scontrol ARGUMENTS`. It treats signals as srun does: SIGTERM kills the step,
any other is sent to all processes of the step. A requeued job's number is added to the file $STANDIN_REQUEUED.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import psutil

_FORWARDED = (signal.SIGUSR1, signal.SIGUSR2)


def write_programs(directory: Path) -> None:
    """Makes programs of both names in a directory, for PATH."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("srun", "scontrol"):
        path = directory / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.deploy.slurm_standin {name} "$@"\n')
        path.chmod(0o755)


def srun(arguments: Sequence[str]) -> int:
    """Runs a command once for each node of ``--nodelist``; returns the highest exit status, or 1 if a task was killed."""
    first = next(index for index, word in enumerate(arguments) if not word.startswith("-"))
    options = dict(word.removeprefix("--").split("=", 1) for word in arguments[:first])
    nodes = options["nodelist"].split(",")
    if int(options["nodes"]) != len(nodes) or int(options["ntasks"]) != len(nodes):
        sys.stderr.write(f"srun: error: {options}: one task for each node was expected\n")
        return 1
    for number in (signal.SIGTERM, *_FORWARDED):
        signal.signal(number, _on_signal)
    tasks = [
        subprocess.Popen(arguments[first:], env={**os.environ, "SLURMD_NODENAME": node, "SLURM_PROCID": str(index)})
        for index, node in enumerate(nodes)
    ]
    return max(status if status >= 0 else 1 for status in [task.wait() for task in tasks])


def scontrol(arguments: Sequence[str]) -> int:
    """Expands a list of nodes, or notes a job that is to run again."""
    match list(arguments):
        case ["show", "hostnames", nodes]:
            sys.stdout.write("\n".join(nodes.split(",")) + "\n")
        case ["requeue", job]:
            with Path(os.environ["STANDIN_REQUEUED"]).open("a") as file:
                file.write(f"{job}\n")
        case _:
            sys.stderr.write(f"scontrol: error: {' '.join(arguments)}\n")
            return 1
    return 0


def _on_signal(number: int, frame: FrameType | None) -> None:
    sent = signal.SIGKILL if number == signal.SIGTERM else signal.Signals(number)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(sent)


if __name__ == "__main__":
    program, *words = sys.argv[1:]
    sys.exit(srun(words) if program == "srun" else scontrol(words))
