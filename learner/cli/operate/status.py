"""`leeway status`: shows the present state of a run from another terminal."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import read_summary
from learner.cli.view.closing_summary import print_summary
from learner.cli.view.live import ProcessView, RunView, render


def print_status(console: Console, run: RunDirectory) -> None:
    """Prints a run's numbers and processes; of a run that is not in progress its summary as well.

    Raises:
        SettingsError: run.json is damaged.
    """
    run_file = RunFile.read(run.root)
    in_progress = run.is_locked()
    history = RunHistory(run.metrics).poll()
    phase = history.learner.phase(0) if in_progress else "not running"
    console.print(render(RunView(phase, _processes(run), history, None), run_file))
    summary = None if in_progress else read_summary(run)
    if summary:
        print_summary(console, summary)


def _processes(run: RunDirectory) -> list[ProcessView]:
    try:
        rows = json.loads(run.processes.read_text())
    except FileNotFoundError:  # nothing was ever started
        return []
    views = []
    for row in rows:
        alive = row["pid"] is not None and Path(f"/proc/{row['pid']}").exists()
        state = "running" if alive else "not running"
        views.append(ProcessView(row["name"], state, row["pid"] if alive else None, row["restarts"], None))
    return views
