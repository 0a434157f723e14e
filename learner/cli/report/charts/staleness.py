"""Charts of the age of tokens when they were trained on."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from learner.cli.report.charts.drawing import BLUE, ORANGE, Plot, from_zero, legend
from learner.cli.report.charts.series import SMOOTH, rolling, series
from learner.cli.run.run_history import Row


def staleness(rows: Sequence[Row]) -> Plot:
    """Share of the trained response tokens by staleness."""

    def plot(axes: Axes) -> None:
        counts = staleness_tokens(rows)
        total = sum(counts.values()) or 1
        axes.bar([*counts], [100 * count / total for count in counts.values()], color=BLUE, alpha=0.85, width=0.8)
        axes.set(xlabel="staleness when trained, optimizer steps", ylabel="share of response tokens, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)

    return plot


def over_steps(rows: Sequence[Row]) -> Plot:
    """Mean staleness over tokens as a mean over 10 steps, and the largest of each step."""

    def plot(axes: Axes) -> None:
        steps, values = series(rows, "staleness_max")
        axes.plot(steps, values, ".", color=ORANGE, alpha=0.5, markersize=4, markeredgewidth=0, label="largest")
        steps, values = series(rows, "staleness_mean")
        axes.plot(steps, rolling(values, SMOOTH), color=BLUE, label="mean over tokens")
        axes.set(xlabel="step", ylabel="optimizer steps")
        from_zero(axes)
        legend(axes)

    return plot


def staleness_tokens(rows: Sequence[Row]) -> dict[int, int]:
    """Number of trained response tokens by staleness in optimizer steps, ascending.

    A step whose row has no tokens by staleness counts with its mean staleness, rounded.
    """
    counts: dict[int, int] = {}
    for row in rows:
        detail = row.get("staleness_tokens") or {round(row["staleness_mean"]): row["tokens"]}
        for value, tokens in detail.items():
            counts[int(value)] = counts.get(int(value), 0) + tokens
    return dict(sorted(counts.items()))
