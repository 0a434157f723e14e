"""Charts of what the optimizer does: likelihoods by sign, rho, health, updates, the warm start."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from learner.cli.report.charts.drawing import BLUE, GREEN, GREY, ORANGE, Plot, from_zero, legend, noisy
from learner.cli.report.charts.series import SMOOTH, rolling, series
from learner.cli.run.run_history import Row


def scales(rows: Sequence[Row]) -> Plot:
    """Mean negative log-likelihood (NLL) of responses with a positive and with a negative advantage, over 10 steps."""

    def plot(axes: Axes) -> None:
        both = [row for row in rows if row["nll_positive"] and row["nll_negative"]]
        steps = [row["step"] for row in both]
        for sign, color in (("positive", GREEN), ("negative", ORANGE)):
            axes.plot(
                steps, rolling([row[f"nll_{sign}"] for row in both], SMOOTH), color=color, label=f"{sign} advantage"
            )
        axes.set(xlabel="step", ylabel="NLL, nats per token")
        from_zero(axes)
        legend(axes)

    return plot


def rho(rows: Sequence[Row]) -> Plot:
    """Weight rho of negatives against positives, as measured from each step's gradient: unsafe when its mean is near 1."""

    def plot(axes: Axes) -> None:
        steps, values = series(rows, "rho")
        noisy(axes, steps, values, BLUE)
        axes.axhline(0.3, color=GREY, linewidth=1, linestyle="--")
        axes.set(xlabel="step", ylabel="ρ, weight of negatives / positives")
        from_zero(axes)

    return plot


def warm_start(warmup: Sequence[Row]) -> Plot:
    """Mean probability of a whole reference response during the supervised warm start."""

    def plot(axes: Axes) -> None:
        axes.plot([row["step"] for row in warmup], [row["target_probability"] for row in warmup], color=BLUE)
        axes.set(xlabel="supervised step", ylabel="probability")
        from_zero(axes)

    return plot


def health(rows: Sequence[Row]) -> Plot:
    """Entropy, share of informative groups and gradient norm, each as a mean over 10 steps."""

    def plot(axes: Axes) -> None:
        for key, color, name in (
            ("entropy", BLUE, "entropy, nats/token"),
            ("informative", GREEN, "informative groups, share"),
        ):
            steps, values = series(rows, key)
            axes.plot(steps, rolling(values, SMOOTH), color=color, label=name)
        axes.set(xlabel="step")
        steps, norms = series(rows, "grad_norm")
        _right(axes, steps, rolling(norms, SMOOTH), "gradient norm (right)").set_ylim(bottom=0)
        from_zero(axes)
        legend(axes)

    return plot


def updates(rows: Sequence[Row]) -> Plot:
    """Update norm per unit of learning rate, and the cosine between consecutive updates."""

    def plot(axes: Axes) -> None:
        steps, growth = series(rows, "growth")
        axes.plot(steps, growth, color=BLUE, linewidth=1.2, label="update norm per unit learning rate")
        axes.set(xlabel="step")
        steps, cosines = series(rows, "ballistic")
        right = _right(axes, steps, rolling(cosines, SMOOTH), "cosine without momentum (right)")
        right.axhline(0.7, color=GREY, linewidth=1, linestyle="--")
        right.set_ylim(-1, 1)
        from_zero(axes)
        legend(axes)

    return plot


def learning_rate(rows: Sequence[Row]) -> Plot:
    """Learning rate of each step."""

    def plot(axes: Axes) -> None:
        axes.plot(*series(rows, "lr"), color=BLUE)
        axes.set(xlabel="step", ylabel="learning rate")
        from_zero(axes)

    return plot


def _right(axes: Axes, steps: Sequence[int], values: Sequence[float], name: str) -> Axes:
    """Draws a line on an axis of its own at the right, and names it in the legend of ``axes``; returns the new axes."""
    right = axes.twinx()
    right.plot(steps, values, color=ORANGE, linewidth=1.2)
    axes.plot([], [], color=ORANGE, linewidth=1.2, label=name)
    right.spines["right"].set_visible(True)
    right.grid(visible=False)
    return right  # pyright: ignore[reportReturnType]
