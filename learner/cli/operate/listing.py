"""`leeway list`: the runs of a directory, each with its state, step and reward."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_history import Row, mean
from learner.cli.view.text import number

_TAIL_BYTES = 256 << 10
_RECENT = 10


@dataclass(frozen=True)
class ListedRun:
    """A run as the list shows it.

    Attributes:
        path: its directory.
        name: its name.
        status: "running"; "finished", "failed" or "stopped" as it said itself; "interrupted": it ended without a word, as a
            machine that is switched off does; "damaged": its run.json cannot be read.
        step: its newest step; 0 before the first.
        steps: those it is to make; None where run.json cannot be read.
        reward: mean of its last ten steps; None before the first.
        time: when it last wrote something, in Unix seconds.
    """

    path: str
    name: str
    status: str
    step: int
    steps: int | None
    reward: float | None
    time: float


def runs_in(directory: Path) -> list[ListedRun]:
    """The runs in a directory, the newest first.

    Raises:
        RunError: there is no such directory.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: no such directory; runs are in runs/ of the directory where they were started")
    found = [_listed(path.parent) for path in directory.glob("*/run.json")]
    return sorted(found, key=lambda run: run.time, reverse=True)


def list_json(runs: list[ListedRun]) -> str:
    """The list as a JSON array."""
    return json.dumps([asdict(run) for run in runs], indent=2)


def list_table(runs: list[ListedRun]) -> Table:
    """The list for a terminal."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("run", "status", "step", "reward", "last written"):
        table.add_column(column, justify="right" if column in ("step", "reward") else "left")
    for run in runs:
        style = {"running": "green", "failed": "red", "interrupted": "yellow", "damaged": "red"}.get(run.status, "")
        status = f"[{style}]{run.status}[/{style}]" if style else run.status
        step = f"{run.step}" if run.steps is None else f"{run.step}/{run.steps}"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.time))
        table.add_row(escape(run.path), status, step, number(run.reward), when)
    return table


def _listed(root: Path) -> ListedRun:
    run = RunDirectory.at(root)
    settings = _object(run.settings)
    rows = _last_steps(run.metrics / "learner.jsonl")
    written = [
        path.stat().st_mtime for path in (run.settings, run.metrics / "learner.jsonl", run.summary) if path.is_file()
    ]
    return ListedRun(
        path=str(root),
        name=(settings or {}).get("run", {}).get("name", root.name),
        status="damaged" if settings is None else _status(run, rows),
        step=rows[-1]["step"] if rows else 0,
        steps=(settings or {}).get("learner", {}).get("steps"),
        reward=mean(rows[-_RECENT:], "reward"),
        time=max(written),
    )


def _status(run: RunDirectory, rows: list[Row]) -> str:
    if run.is_locked():
        return "running"
    summary = _object(run.summary)
    if summary is None or (rows and rows[-1]["time"] > run.summary.stat().st_mtime):
        return "interrupted"  # no summary, or that of an earlier invocation
    return str(summary.get("status", "interrupted"))


def _last_steps(path: Path) -> list[Row]:
    """The step rows at the end of the learner's metrics; empty where there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    rows = [row for line in lines if (row := _parsed(line)) is not None]
    return [row for row in rows if row.get("kind") == "step"]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A row; None for one that is damaged, or cut because reading began within it."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _object(path: Path) -> dict[str, Any] | None:
    return _parsed(path.read_bytes()) if path.is_file() else None
