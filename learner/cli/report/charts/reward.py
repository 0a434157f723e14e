"""Charts of the reward: of all responses, by task, and by part."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from learner.cli.report.charts.drawing import BLUE, PALETTE, Plot, label, legend
from learner.cli.report.charts.series import SMOOTH, names_in, rolling, series
from learner.cli.run.run_history import Row

MOST = len(PALETTE)  # lines on one chart


def reward(rows: Sequence[Row]) -> Plot:
    """Mean reward of each step, and its mean over 10 steps; the band is one standard deviation of the responses."""

    def plot(axes: Axes) -> None:
        steps, values = series(rows, "reward")
        spread = {row["step"]: row["reward_sd"] for row in rows if row.get("reward_sd") is not None}
        smooth = rolling(values, SMOOTH)
        axes.plot(steps, values, ".", color=BLUE, alpha=0.25, markersize=4, markeredgewidth=0)
        axes.plot(steps, smooth, color=BLUE, label=f"mean of {SMOOTH} steps")
        known = [(step, value) for step, value in zip(steps, smooth, strict=True) if step in spread]
        if known:
            widths = rolling([spread[step] for step, _ in known], SMOOTH)
            low = [value - width for (_, value), width in zip(known, widths, strict=True)]
            high = [value + width for (_, value), width in zip(known, widths, strict=True)]
            axes.fill_between(
                [step for step, _ in known], low, high, color=BLUE, alpha=0.08, linewidth=0,
                label="standard deviation of responses",
            )  # fmt: skip
        axes.set(xlabel="step", ylabel="mean sampled reward")
        axes.set_xlim(left=0)
        if not known or min(low) >= 0:
            axes.set_ylim(bottom=0)
        legend(axes)

    return plot


def by_task(rows: Sequence[Row]) -> Plot:
    """Mean reward of each task over 10 steps in which it had groups."""

    def plot(axes: Axes) -> None:
        for name, color in zip(names_in(rows, "tasks"), PALETTE, strict=False):
            steps, values = series(rows, "tasks", name, "reward")
            axes.plot(steps, rolling(values, SMOOTH), color=color, label=label(name))
        axes.set(xlabel="step", ylabel="mean sampled reward")
        axes.set_xlim(left=0)
        legend(axes)

    return plot


def parts(rows: Sequence[Row], task: str) -> Plot:
    """Mean of each part of a task's reward over 10 steps."""

    def plot(axes: Axes) -> None:
        for name, color in zip(names_in(rows, "tasks", task, "parts"), PALETTE, strict=False):
            steps, values = series(rows, "tasks", task, "parts", name)
            axes.plot(steps, rolling(values, SMOOTH), color=color, label=label(name))
        axes.set(xlabel="step", ylabel="mean of the part")
        axes.set_xlim(left=0)
        legend(axes)

    return plot
