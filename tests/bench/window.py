"""A measuring window that two processes agree on: the driver prints "go" and "done", the bench reads CPU times."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, user and system."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def own_cpu_s() -> float:
    """CPU seconds of this process so far, to the microsecond."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Driver:
    """The process that makes the load: says when the window opens, and what it saw when it closes."""

    def __init__(self) -> None:
        self._started = self._cpu = 0.0

    def go(self) -> None:
        """Opens the window."""
        print("go", flush=True)
        self._started, self._cpu = time.monotonic(), own_cpu_s()

    def done(self, groups: int, **results: Any) -> None:
        """Closes it."""
        elapsed, cpu = time.monotonic() - self._started, own_cpu_s() - self._cpu
        print(json.dumps({"groups": groups, "elapsed_s": elapsed, "cpu_s": cpu, **results}), flush=True)


@dataclass(frozen=True)
class Measured:
    """Results of a window."""

    groups: int
    elapsed_s: float
    cpu_us: dict[str, float]  # microseconds per group, by process; the driver is "client"
    results: dict[str, Any]

    @property
    def rate(self) -> float:
        """Groups per second of wall time."""
        return self.groups / self.elapsed_s


def measure(module: str, settings: Mapping[str, Any], watched: Mapping[str, int], limit_s: float) -> Measured:
    """Runs ``python -m module SETTINGS`` and attributes CPU to the watched processes (name -> pid) over its window."""
    process = subprocess.Popen([sys.executable, "-m", module, json.dumps(settings)], stdout=subprocess.PIPE, text=True)
    try:
        lines = _lines(process, limit_s)
        before = {name: cpu_s(pid) for name, pid in watched.items()}
        results = json.loads(next(lines))
        after = {name: cpu_s(pid) for name, pid in watched.items()}
        process.wait(timeout=limit_s)
    finally:
        process.kill()
    groups = max(1, results.pop("groups"))
    cpu = {"client": results.pop("cpu_s")} | {name: after[name] - before[name] for name in watched}
    return Measured(groups, results.pop("elapsed_s"), {n: 1e6 * s / groups for n, s in cpu.items()}, results)


def _lines(process: subprocess.Popen[str], limit_s: float) -> Any:
    """Yields the driver's output after its "go". Raises RuntimeError if the driver ends before."""
    assert process.stdout is not None
    deadline = time.monotonic() + limit_s
    for line in process.stdout:
        if line.strip() == "go":
            return iter(process.stdout)
        if time.monotonic() > deadline:
            break
    raise RuntimeError(f"{' '.join(map(str, process.args))[:200]}: ended before its window opened")  # pyright: ignore


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
