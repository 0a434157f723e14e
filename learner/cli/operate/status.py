"""`leeway status`: shows the present state of a run from another terminal."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from learner.cli.operate.evaluation_table import last_lines
from learner.cli.run.evaluations import read_evaluations
from learner.cli.run.queue import queue_of
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import Summary, ledger_row, read_summary
from learner.cli.view.closing_summary import print_summary
from learner.cli.view.ledger import ledger_line, ledgers_of
from learner.cli.view.live import ProcessView, RunView, render
from learner.queue import QueueError
from learner.queue.change_journal import ChangeJournal, InForce


def print_status(console: Console, run: RunDirectory) -> None:
    """Prints a run's numbers and processes; its ledger and last evaluations; when it has ended, its summary as well.

    Raises:
        SettingsError: run.json is damaged.
    """
    run_file = RunFile.read(run.root)
    in_progress = run.is_locked()
    history = RunHistory(run.metrics).poll()
    processes = _processes(run)
    ages = [process.age_s for process in processes if process.age_s is not None]
    # What an earlier invocation recorded says nothing of this one: it began with its oldest process.
    phase = history.learner.phase(time.time() - max(ages) if ages else 0) if in_progress else "not running"
    console.print(render(RunView(phase, processes, history, None, _in_force(run)), run_file))
    summary = None if in_progress else read_summary(run)
    for line in [*_ledgers(run, summary), *last_lines(read_evaluations(run.metrics))]:
        console.print(Text(line))
    if summary:
        print_summary(console, summary, run.shown)


def _ledgers(run: RunDirectory, summary: Summary | None) -> list[str]:
    """A line for each fleet's ledger: from Redis while the run is in progress, otherwise from the summary."""
    if summary is not None:
        rows = summary["ledger"]
    else:
        try:
            rows = [ledger_row(ledger) for ledger in ledgers_of(run)]
        except QueueError as error:
            return [f"ledger: cannot be read ({error})"]
    return [f"ledger of {ledger_line(row)}" for row in rows] or ["ledger: no fleet has submitted anything yet"]


def _in_force(run: RunDirectory) -> InForce | None:
    """What operators have changed; None where Redis cannot be read, which the line of the ledger says."""
    try:
        with queue_of(run) as config, ChangeJournal(config) as journal:
            return journal.in_force()
    except QueueError:
        return None


def _processes(run: RunDirectory) -> list[ProcessView]:
    try:
        rows = json.loads(run.processes.read_text())
    except FileNotFoundError:  # nothing was ever started
        return []
    views = []
    for row in rows:
        age_s = _age_s(row["pid"])
        pid, state = (None, "not running") if age_s is None else (row["pid"], "running")
        views.append(ProcessView(row["name"], state, pid, row["restarts"], age_s))
    return views


def _age_s(pid: int | None) -> float | None:
    """Seconds since the start of a process; None when it does not run. Read from /proc: this command comes without psutil."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds after the machine's start: field 22, starttime
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
