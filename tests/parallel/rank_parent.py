"""The parent of the ranks of tests: it imports torch and Megatron once, and forks ranks that run cases (see ranks.py).

On standard input it reads orders, each a line of JSON: {"world": number of ranks, "cases": file of cases}. On standard
output it answers each with a line, once all ranks have ended: 0, or the exit status of the first one that failed, after which
it kills the others. Whatever comes before that, the end of the input too, is an order to kill them.

Argument: "import" to import everything before the first order. A process that has used CUDA cannot fork others that do.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path

from runtime.children import die_with_parent

_PROGRAM = "tests.parallel.worker"
_TICK_S = 0.02


def main(arguments: list[str]) -> None:
    """Obeys orders until the input ends."""
    if "import" in arguments:
        importlib.import_module(_PROGRAM)
    gc.collect()
    gc.freeze()  # what is here lives for ever, in all ranks: none needs to go through it
    with open(0, "rb", buffering=0, closefd=False) as orders:
        while line := orders.readline():
            if line.strip():
                order = json.loads(line)
                os.write(1, b"%d\n" % _run(order["world"], Path(order["cases"])))


def _run(world: int, cases: Path) -> int:
    """Forks the ranks, and returns the exit status of the first one that fails, or 0."""
    ranks, status = {_fork(rank, world, cases) for rank in range(world)}, 0
    while ranks:
        pid, ended = os.waitpid(-1, os.WNOHANG)
        ranks.discard(pid)
        status = status or (os.waitstatus_to_exitcode(ended) if pid else 0)
        if not pid and (select.select([0], [], [], _TICK_S)[0] or status):
            _kill(ranks)
    return status


def _kill(ranks: set[int]) -> None:
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)  # it may have ended, but is there until this process has heard of it


def _fork(rank: int, world: int, cases: Path) -> int:
    """Starts a rank, whose output is appended to the file ``log`` beside the cases; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent()
        log = os.open(cases.parent / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for old, new in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}  # as torchrun says it
        os.environ.update({name: str(value) for name, value in here.items()})
        importlib.import_module(_PROGRAM).main(cases)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
