"""Charts of several runs on the same axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from learner.cli.report.charts.drawing import PALETTE, Plot, label
from learner.cli.run.evaluations import Evaluation

_MANY = 10_000  # from here on an axis says 10 k
Curve = tuple[Sequence[float], Sequence[float]]  # x and y


def curves(found: Mapping[str, Curve], xlabel: str, ylabel: str) -> Plot:
    """One line for each run, by the run's label; runs of different lengths end where they end."""

    def plot(axes: Axes) -> None:
        for (name, (x, y)), (color, line) in zip(found.items(), _looks(), strict=False):
            axes.plot(x, y, line, color=color, label=label(name))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_xlim(left=0)
        if max((max(x, default=0.0) for x, _ in found.values()), default=0.0) >= _MANY:
            axes.xaxis.set_major_formatter(EngFormatter())
        if min((min(y, default=0.0) for _, y in found.values()), default=0.0) >= 0:
            axes.set_ylim(bottom=0)  # shares, lengths and times: a small difference must not look large
        _legend(axes)

    return plot


def evaluations(found: Mapping[str, Sequence[Evaluation]], metric: str) -> Plot:
    """One line for each run: a metric by version, with 95 % intervals."""

    def plot(axes: Axes) -> None:
        for (name, rows), (color, line) in zip(found.items(), _looks(), strict=False):
            estimates = [(row.version, row.metrics[metric]) for row in rows if metric in row.metrics]
            errors = [
                [max(0.0, one.value - one.low) for _, one in estimates],
                [max(0.0, one.high - one.value) for _, one in estimates],
            ]
            axes.errorbar(
                [version for version, _ in estimates], [one.value for _, one in estimates], errors, color=color,
                linestyle=line, marker="o", markersize=3.5, linewidth=1.4, elinewidth=1, capsize=2.5, label=label(name),
            )  # fmt: skip
        axes.set(xlabel="version", ylabel=label(metric))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)

    return plot


def _looks() -> Iterator[tuple[str, str]]:
    """Colours and line styles; no two of the first 24 are equal."""
    for line in cycle(("-", "--", ":")):
        for color in PALETTE:
            yield color, line


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderaxespad=0, handlelength=1.6)
