"""Charts of what groups had to teach: the shares with and without contrast."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from learner.cli.report.charts.drawing import BLUE, GREEN, GREY, INK, PALETTE, RED, Plot, label, legend
from learner.cli.report.charts.series import SMOOTH, names_in, rolling, series
from learner.cli.run.run_history import Row


def shares(rows: Sequence[Row]) -> Plot:
    """Shares of groups that are informative, all right, all wrong and not scored, stacked, each as a mean over 10 steps."""

    def plot(axes: Axes) -> None:
        counted = [row for row in rows if row.get("all_right") is not None and row.get("all_wrong") is not None]
        keys = ("informative", "all_right", "all_wrong")
        values = [rolling([100 * row[key] for row in counted], SMOOTH) for key in keys]
        # With fewer than two scored responses a group is none of the three.
        values.append([max(0.0, 100 - sum(three)) for three in zip(*values, strict=True)])
        axes.stackplot(
            [row["step"] for row in counted], values, labels=["informative", "all right", "all wrong", "not scored"],
            colors=[BLUE, GREEN, RED, GREY], alpha=0.75,
        )  # fmt: skip
        axes.set(xlabel="step", ylabel="share of groups, %", ylim=(0, 100))
        legend(axes)

    return plot


def informative(rows: Sequence[Row]) -> Plot:
    """Number of informative groups in each step, and its mean over 10 steps."""

    def plot(axes: Axes) -> None:
        steps, values = series(rows, "groups_informative")
        axes.plot(steps, values, ".", color=BLUE, alpha=0.25, markersize=4, markeredgewidth=0)
        axes.plot(steps, rolling(values, SMOOTH), color=BLUE, label="informative")
        steps, values = series(rows, "groups")
        axes.plot(steps, rolling(values, SMOOTH), color=INK, linewidth=1, label="all groups of the step")
        axes.set(xlabel="step", ylabel="groups", ylim=(0, None))
        axes.set_xlim(left=0)
        legend(axes)

    return plot


def informative_by_task(rows: Sequence[Row]) -> Plot:
    """Share of informative groups of each task, as a mean over 10 steps in which it had groups."""

    def plot(axes: Axes) -> None:
        for name, color in zip(names_in(rows, "tasks"), PALETTE, strict=False):
            steps, values = series(rows, "tasks", name, "informative")
            axes.plot(steps, rolling([100 * value for value in values], SMOOTH), color=color, label=label(name))
        axes.set(xlabel="step", ylabel="share of its groups, %", ylim=(0, None))
        axes.set_xlim(left=0)
        legend(axes)

    return plot
