"""The page that `leeway compare` writes: settings that differ, the table, and overlaid curves."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from learner.cli.report.charts import overlays
from learner.cli.report.charts.overlays import Curve
from learner.cli.report.charts.series import SMOOTH, rolling, series
from learner.cli.report.comparison import ComparedRun, differing, numbers, table_rows
from learner.cli.report.page import Chart, charts, panel, section, table
from learner.cli.report.report import write_page
from learner.cli.run.evaluations import by_subject

# Title, keys of the step row, what the axis says.
_BY_STEP: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Informative groups", ("informative",), "share of groups"),
    ("All right", ("all_right",), "share of groups"),
    ("Response length", ("length", "mean"), "generated tokens, mean"),
    ("Truncated", ("truncated",), "share of responses"),
    ("Staleness", ("staleness_mean",), "optimizer steps, mean"),
    ("Time per step", ("step_s",), "seconds"),
    ("Entropy", ("entropy",), "nats per token"),
    ("Gradient norm", ("grad_norm",), "norm"),
)
_SMOOTHED = f"Mean over {SMOOTH} steps."


def write_comparison(runs: Sequence[ComparedRun], path: Path) -> None:
    """Writes the page. Raises OSError."""
    labels = [one.label for one in runs]
    settings = [(key, *values) for key, values in differing(runs).items()]
    listing = table(("setting", *labels), settings, texts=1 + len(runs)) or "<p>All settings are equal.</p>"
    values = [(name, *cells) for name, cells in table_rows([numbers(one) for one in runs])]
    sections = [
        section("Numbers", panel(table(("", *labels), values))),
        section("Settings that differ", panel(listing)),
        section("Evaluations", charts(_evaluations(runs)), note="By version, with the 95 % interval of each."),
        section("Curves", charts(_curves(runs)), note="Overlaid; runs of different lengths end where they end."),
    ]
    lead = " · ".join(f"{one.label}: {one.run.shown}" for one in runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, name="Comparison", lead=html.escape(lead), top="", sections="".join(sections))


def _evaluations(runs: Sequence[ComparedRun]) -> list[Chart]:
    grouped = {one.label: by_subject(one.evaluations) for one in runs}
    found = []
    for subject in dict.fromkeys(subject for of_run in grouped.values() for subject in of_run):
        of_subject = {label: of_run[subject] for label, of_run in grouped.items() if subject in of_run}
        metric = next(iter(of_subject.values()))[-1].headline
        if metric is not None:
            found.append(Chart(", ".join(subject), f"{metric}.", overlays.evaluations(of_subject, metric)))
    return found


def _curves(runs: Sequence[ComparedRun]) -> list[Chart]:
    tokens = "Against the response tokens trained so far: what the reward cost."
    found = [
        ("Sampled reward", _SMOOTHED, "step", "mean reward", _by_step(runs, "reward")),
        ("Sampled reward by tokens", tokens, "response tokens trained", "mean reward", _of(runs, _by_tokens)),
    ]
    found += [(title, _SMOOTHED, "step", unit, _by_step(runs, *keys)) for title, keys, unit in _BY_STEP]
    return [
        Chart(title, note, overlays.curves(lines, xlabel, ylabel))
        for title, note, xlabel, ylabel, lines in found
        if lines
    ]


def _by_step(runs: Sequence[ComparedRun], *keys: str) -> dict[str, Curve]:
    def curve(one: ComparedRun) -> Curve:
        steps, values = series(one.rows, *keys)
        return steps, rolling(values, SMOOTH)

    return _of(runs, curve)


def _by_tokens(one: ComparedRun) -> Curve:
    totals = dict(zip([row["step"] for row in one.rows], accumulate(row["tokens"] for row in one.rows), strict=True))
    steps, values = series(one.rows, "reward")
    return [totals[step] for step in steps], rolling(values, SMOOTH)


def _of(runs: Sequence[ComparedRun], curve: Callable[[ComparedRun], Curve]) -> dict[str, Curve]:
    """The curve of each run that has one."""
    found = {one.label: curve(one) for one in runs}
    return {label: line for label, line in found.items() if line[0]}
