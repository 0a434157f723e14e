"""The two figures: final reward by staleness, and final reward by learning rate. Colours tell apart for every eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot

from tests.evidence.cell import Cell
from tests.evidence.grid import CEILING, OBJECTIVES, STALENESS, TUNED, cell
from tests.evidence.law import LawCurve
from tests.evidence.results import Results
from tests.evidence.statistics import Estimate, estimate
from tests.evidence.table import Comparison, Variant

# Okabe and Ito's palette; markers differ as well.
_COLOURS = ("#000000", "#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73")
_MARKERS = ("x", "s", "D", "o", "^", "v")
_ARMS = (
    ("plain", TUNED, f"constant rate {TUNED:g}"),
    ("plain", CEILING, f"constant rate {CEILING:g}"),
    ("both", CEILING, f"averaged and governed, ceiling {CEILING:g}"),
)
_STYLE: Any = {
    "font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
    "svg.hashsalt": "leeway", "svg.fonttype": "none",
}  # fmt: skip


def staleness_figure(cells: Sequence[Cell], results: Results, path: Path) -> None:
    """Draws final reward by staleness, a panel for each task and arm, a line for each objective, with its interval.

    Args:
        cells: the cells of the core.
        results: the results.
        path: an SVG file.
    """
    comparison = Comparison(cells, results)
    tasks = list(dict.fromkeys(task for task, _ in comparison.settings))
    lags = [lag for lag in STALENESS if any(setting[1] == lag for setting in comparison.settings)]
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(
            len(tasks), len(_ARMS), sharex=True, sharey="row", squeeze=False, figsize=(10, 1.2 + 2.3 * len(tasks))
        )
        for row, task in enumerate(tasks):
            axes[row][0].set_ylabel(f"{task}: final reward")
            for column, (arm, lr, title) in enumerate(_ARMS):
                panel = axes[row][column]
                panel.set_title(title if row == 0 else "")
                for index, name in enumerate(OBJECTIVES):
                    variant = Variant.of(cell(name, arm, lr, "sort", 0, 0, steps=cells[0].steps))
                    points = {lag: list(comparison.values(variant, (task, lag)).values()) for lag in lags}
                    places = [lags.index(lag) + 0.06 * (index - 2.5) for lag in lags if points[lag]]
                    if places:
                        _line(panel, places, [estimate(points[lag]) for lag in lags if points[lag]], index, name)
                panel.set_xticks(range(len(lags)), list(map(str, lags)))
                panel.set_xlim(-0.4, len(lags) - 0.6)
                panel.set_ylim(0, 1)
        for panel in axes[-1]:
            panel.set_xlabel("staleness, optimizer steps")
        _finish(figure, axes[0][0], path)


def law_figure(curves: Sequence[LawCurve], path: Path) -> None:
    """Draws final reward by learning rate, a panel for each objective and arm, a line for each staleness."""
    with pyplot.rc_context(_STYLE):
        columns = max(1, (len(curves) + 1) // 2)
        figure, axes = pyplot.subplots(
            2, columns, sharex=True, sharey=True, squeeze=False, figsize=(1 + 3 * columns, 5.8)
        )
        lags = sorted({staleness for curve in curves for staleness in curve.rewards})
        ordered = sorted(curves, key=lambda curve: (curve.name.endswith("averaged"), curve.name))
        for panel, curve in zip(axes.flat, ordered, strict=False):
            panel.set_title(curve.name)
            panel.set_xscale("log")
            panel.set_ylim(0, 1)
            for staleness, by_rate in curve.rewards.items():
                rates = sorted(by_rate)
                index = lags.index(staleness)
                _line(panel, rates, [estimate(by_rate[rate]) for rate in rates], index + 1, f"S = {staleness}")
        for panel in axes[-1]:
            panel.set_xlabel("learning rate")
        for row in axes:
            row[0].set_ylabel("final reward")
        _finish(figure, axes[0][0], path)


def _line(panel: Any, places: Sequence[float], found: Sequence[Estimate], index: int, name: str) -> None:
    means = [one.mean for one in found]
    bars = [[max(0.0, one.mean - one.low) for one in found], [max(0.0, one.high - one.mean) for one in found]]
    colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
    panel.errorbar(places, means, bars, color=colour, marker=marker, markersize=4, linewidth=1.2, capsize=2, label=name)


def _finish(figure: Any, panel: Any, path: Path) -> None:
    handles, labels = panel.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
