"""The evaluations of a run's versions as a table, as lines, or as plain values for JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from learner.cli.run.evaluations import Evaluation, by_subject
from learner.cli.view.text import interval, printable


def evaluations_table(evaluations: Sequence[Evaluation]) -> Table:
    """A table with a row per evaluation: its first mean, or else its first metric, with the 95 % interval."""
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("version", "evaluation", "sampling", "prompts", "metric", "value", "unscored", "measured"):
        table.add_column(name, justify="right" if name in ("version", "prompts", "unscored") else "left")
    for one in evaluations:
        metric = one.headline or ""
        found = one.metrics.get(metric)
        value = "" if found is None else interval(found.value, found.low, found.high)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.time))
        words = (f"{one.version:,}", one.name, one.sampling, f"{one.prompts:,} x {one.samples}", metric, value)
        table.add_row(*(escape(printable(word)) for word in (*words, f"{one.unscored:,}", when)))
    return table


def evaluation_row(one: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values for JSON; metrics as value, low, high."""
    names = ("version", "name", "sampling", "prompts", "samples", "unscored", "seconds", "time")
    metrics = {name: [found.value, found.low, found.high] for name, found in one.metrics.items()}
    return {**{name: getattr(one, name) for name in names}, "metrics": metrics}


def last_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """A line for the last evaluation of each name and sampling."""
    lines = []
    for (name, sampling), rows in by_subject(evaluations).items():
        last = rows[-1]
        if last.headline is not None:
            found = last.metrics[last.headline]
            value = f"{last.headline} {interval(found.value, found.low, found.high)}"
            lines.append(printable(f"evaluation {name}, {sampling}: {value} at version {last.version}"))
    return lines
