"""Charts of the lengths of responses, in generated tokens, and of those that the length limit cut off."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from learner.cli.report.charts.drawing import BLUE, GREEN, INK, ORANGE, PALETTE, Plot, from_zero, label, legend
from learner.cli.report.charts.series import SMOOTH, names_in, rolling, series
from learner.cli.run.run_history import Row


def lengths(rows: Sequence[Row]) -> Plot:
    """Mean, median and 95th percentile of a response's length, each as a mean over 10 steps."""

    def plot(axes: Axes) -> None:
        for key, color, name in (("p95", ORANGE, "95th percentile"), ("mean", BLUE, "mean"), ("p50", GREEN, "median")):
            steps, values = series(rows, "length", key)
            axes.plot(steps, rolling(values, SMOOTH), color=color, label=name)
        _finish(axes)

    return plot


def by_sign(rows: Sequence[Row]) -> Plot:
    """Mean (solid) and 95th percentile (dashed) of the length, by the sign of a response's advantage."""

    def plot(axes: Axes) -> None:
        for sign, color in (("positive", GREEN), ("negative", ORANGE)):
            for key, line in (("mean", "-"), ("p95", "--")):
                steps, values = series(rows, f"length_{sign}", key)
                name = f"{sign} advantage" if key == "mean" else None
                width = 1.8 if key == "mean" else 1
                axes.plot(steps, rolling(values, SMOOTH), line, color=color, linewidth=width, label=name)
        axes.plot([], [], "--", color=INK, linewidth=1, label="95th percentile")
        _finish(axes)

    return plot


def by_finish(rows: Sequence[Row]) -> Plot:
    """Mean length of the responses of each finish reason, as a mean over 10 steps that had any."""

    def plot(axes: Axes) -> None:
        for reason, color in zip(names_in(rows, "length_by_finish"), PALETTE, strict=False):
            steps, values = series(rows, "length_by_finish", reason, "mean")
            axes.plot(steps, rolling(values, SMOOTH), color=color, label=label(reason))
        _finish(axes)

    return plot


def truncated(rows: Sequence[Row]) -> Plot:
    """Share of responses that the length limit cut off, in each step and as a mean over 10."""

    def plot(axes: Axes) -> None:
        steps, values = series(rows, "truncated")
        percent = [100 * value for value in values]
        axes.plot(steps, percent, ".", color=ORANGE, alpha=0.3, markersize=4, markeredgewidth=0)
        axes.plot(steps, rolling(percent, SMOOTH), color=ORANGE)
        axes.set(xlabel="step", ylabel="share of responses, %")
        from_zero(axes)

    return plot


def _finish(axes: Axes) -> None:
    axes.set(xlabel="step", ylabel="generated tokens")
    from_zero(axes)
    legend(axes)
