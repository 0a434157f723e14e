"""Charts of what bounds the learning rate: its ceiling, the movement of the policy, effective sample size and gradients."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from learner.cli.report.charts.drawing import BLUE, GREEN, GREY, ORANGE, Plot, from_zero, legend, noisy
from learner.cli.report.charts.series import series
from learner.cli.run.run_history import Row


def rate_and_ceiling(rows: Sequence[Row]) -> Plot:
    """Learning rate of each step and the scheduled one, on a logarithmic scale: steps with a rate of 0 leave a gap."""

    def plot(axes: Axes) -> None:
        for key, color, line, name in (("lr_scheduled", GREY, "--", "ceiling"), ("lr", BLUE, "-", "used")):
            steps, rates = series(rows, key)
            axes.plot(steps, [rate if rate > 0 else float("nan") for rate in rates], line, color=color, label=name)
        axes.set(xlabel="step", ylabel="learning rate", yscale="log")
        axes.set_xlim(left=0)
        legend(axes)

    return plot


def movement(rows: Sequence[Row], every: int, target: float | None) -> Plot:
    """Measured movement of the policy, the movement predicted over the age of the data, and its target, nats a token.

    Args:
        rows: step rows.
        every: steps of a measurement.
        target: largest prediction that is allowed; None: nothing keeps to one.
    """

    def plot(axes: Axes) -> None:
        steps, values = series(rows, "drift_predicted")
        axes.plot(steps, values, color=BLUE, label="predicted over the age of the data")
        steps, values = series(rows, "drift_measured")
        axes.plot(steps, values, ".", color=ORANGE, markersize=4, label=f"measured over {every} steps")
        if target is not None:
            axes.axhline(target, color=GREY, linewidth=1, linestyle="--", label="target")
        axes.set(xlabel="step", ylabel="nats per token")
        from_zero(axes)
        legend(axes)

    return plot


def effective_sample(rows: Sequence[Row]) -> Plot:
    """Effective sample size as a share of the responses, in each step and as a mean over 10."""

    def plot(axes: Axes) -> None:
        steps, values = series(rows, "ess_share")
        noisy(axes, steps, values, GREEN)
        axes.set(xlabel="step", ylabel="share of the responses")
        from_zero(axes)

    return plot


def gradient_cosine(rows: Sequence[Row]) -> Plot:
    """Cosine of the gradients of consecutive steps, in each step and as a mean over 10."""

    def plot(axes: Axes) -> None:
        steps, values = series(rows, "gradient_cosine")
        noisy(axes, steps, values, BLUE)
        axes.set(xlabel="step", ylabel="cosine")
        axes.set_ylim(-1, 1)
        axes.set_xlim(left=0)

    return plot
