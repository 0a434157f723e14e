"""Runs cells, each in a process of its own, some at a time, until all are done or the time is over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.evidence.cell import Cell
from tests.evidence.results import Result, Results

_LONGEST_S = 3600.0  # of one run, on a machine with other work
_POLL_S = 0.2


@dataclass
class _Running:
    cell: Cell
    process: BaseProcess
    began: float


class Runner:
    """Runs the cells that have no result yet.

    Args:
        results: where results are looked up and left.
        cache: directory where warm-started policies are kept.
        jobs: processes at a time.
        say: prints a line of progress.
    """

    def __init__(self, results: Results, cache: Path, jobs: int, say: Callable[[str], None]) -> None:
        self._results = results
        self._cache = cache
        self._jobs = jobs
        self._say = say
        self._seconds: list[tuple[float, int]] = []  # wall time of the runs made here, and their steps
        self.failed: list[Cell] = []

    def run(self, cells: Sequence[Cell], limit_s: float | None = None) -> None:
        """Runs ``cells`` in order; starts none after ``limit_s`` seconds. Ctrl-C ends those that are running."""
        ends = None if limit_s is None else time.monotonic() + limit_s
        waiting = [cell for cell in cells if cell not in self._results]
        done = len(cells) - len(waiting)
        self._say(f"{len(cells)} runs, {done} of them known already")
        running: list[_Running] = []
        context = _context()
        try:
            while running or (waiting and not _over(ends)):
                while waiting and len(running) < self._jobs and not _over(ends):
                    running.append(self._started(context, waiting.pop(0)))
                for one in [one for one in running if self._has_ended(one)]:
                    running.remove(one)
                    done += 1
                    self._report(one, done, len(cells), [*waiting, *(other.cell for other in running)])
                time.sleep(_POLL_S)
        finally:
            for one in running:
                one.process.kill()
                one.process.join()

    def _started(self, context: ForkServerContext, cell: Cell) -> _Running:
        process = context.Process(target=_work, args=(cell, self._cache, self._results.path(cell)), daemon=True)
        process.start()
        return _Running(cell, process, time.monotonic())

    def _has_ended(self, one: _Running) -> bool:
        if one.process.is_alive() and time.monotonic() - one.began > _LONGEST_S:
            self._say(f"{one.cell}: ended after {_LONGEST_S:.0f} s")
            one.process.kill()
            one.process.join()
        return not one.process.is_alive()

    def _report(self, one: _Running, done: int, total: int, left: Sequence[Cell]) -> None:
        result = self._results.take_in(one.cell)
        if result is None:
            self.failed.append(one.cell)
            self._say(f"[{done}/{total}] {one.cell}: FAILED with status {one.process.exitcode}")
            return
        self._seconds.append((time.monotonic() - one.began, one.cell.steps))
        self._say(f"[{done}/{total}] {_told(result)}; about {self._left(left)} left")

    def _left(self, cells: Sequence[Cell]) -> str:
        """Time that cells will take, by the steps of the runs so far."""
        recent = self._seconds[-20:]
        per_step = sum(seconds for seconds, _ in recent) / sum(steps for _, steps in recent)
        minutes = per_step * sum(cell.steps for cell in cells) / self._jobs / 60
        return f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.0f} min"


def _told(result: Result) -> str:
    first, final, cpu = (result.numbers[name] for name in ("first", "final", "cpu_s"))
    return f"{result.cell}: reward {first:.2f} -> {final:.2f}, {cpu:.0f} s of CPU"


def _over(ends: float | None) -> bool:
    return ends is not None and time.monotonic() >= ends


def _context() -> ForkServerContext:
    """Processes that are forked from one that has imported the learner already, and has no threads."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.evidence.measure"])
    return context


def _work(cell: Cell, cache: Path, path: Path) -> None:
    """Runs a cell in this process and leaves its result; the parent ends it at Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Imported where it is used: it needs torch and megatron, and the parent does not.
    from tests.evidence.measure import run_and_write

    run_and_write(cell, cache, path)
