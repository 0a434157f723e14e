"""The report's section on evaluations: a chart by version, and a table of every metric with its interval."""

from __future__ import annotations

import html
from collections.abc import Sequence

from learner.cli.report.charts.drawing import PALETTE
from learner.cli.report.charts.evaluations import by_version
from learner.cli.report.page import Chart, charts, section, table
from learner.cli.run.evaluations import Evaluation, by_subject
from learner.cli.view.text import interval

_ROWS = 100  # newest versions of a table
_NOTE = (
    "On the same prompts every time, by the version that was evaluated. Intervals are of each version alone, by bootstrap "
    "over prompts; on the same prompts a difference is known better than two intervals say, so intervals that overlap do "
    "not show that there is none. The summary compares the first and the last version prompt by prompt."
)


def evaluation_section(evaluations: Sequence[Evaluation]) -> str:
    """Returns HTML; "" where nothing was evaluated."""
    if not evaluations:
        return ""
    names = sorted({one.name for one in evaluations})
    figures = [
        Chart(
            f"Evaluation of {name}",
            "The mean by version, with its 95 % interval.",
            by_version([one for one in evaluations if one.name == name]),
        )
        for name in names[: len(PALETTE)]
    ]
    tables = "".join(_table(*subject, rows) for subject, rows in by_subject(evaluations).items())
    return section("Evaluations", charts(figures), f"<br>{tables}", note=_NOTE)


def _table(name: str, sampling: str, rows: Sequence[Evaluation]) -> str:
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.metrics))
    head = ("version", "prompts", "unscored", "seconds", *metrics)
    body = [
        (
            f"{row.version:,}",
            f"{row.prompts:,} × {row.samples}",
            f"{row.unscored:,}",
            f"{row.seconds:,.0f}",
            *(_cell(row, metric) for metric in metrics),
        )
        for row in rows[-_ROWS:]
    ]
    cut = f", newest {_ROWS} of {len(rows):,}" if len(rows) > _ROWS else ""
    title = html.escape(f"{name}, {sampling}: {len(rows)} version{'s' if len(rows) > 1 else ''}{cut}")
    return f"<details class=panel open><summary>{title}</summary>{table(head, body, texts=0)}</details><br>"


def _cell(row: Evaluation, metric: str) -> str:
    found = row.metrics.get(metric)
    return "–" if found is None else interval(found.value, found.low, found.high)
