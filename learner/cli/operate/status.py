"""`leeway status`: a run as it stands, seen from outside."""

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
    """Numbers and processes of a run that goes on; of one that does not, its summary as well."""
    run_file = RunFile.read(run.root)
    held = run.is_held()
    metrics = RunHistory(run.metrics).poll()
    console.print(
        render(RunView(metrics.learner.phase(0) if held else "not running", _processes(run), metrics, None), run_file)
    )
    summary = None if held else read_summary(run)
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
