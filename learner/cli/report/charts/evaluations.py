"""Charts of evaluations: a metric by version, with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from learner.cli.report.charts.drawing import PALETTE, Plot, label
from learner.cli.run.evaluations import Evaluation, by_subject


def by_version(evaluations: Sequence[Evaluation]) -> Plot:
    """The headline metric of each name and sampling by version; bars are 95 % intervals."""

    def plot(axes: Axes) -> None:
        for ((name, sampling), rows), color in zip(by_subject(evaluations).items(), PALETTE, strict=False):
            metric = rows[-1].headline
            estimates = [(row.version, row.metrics[metric]) for row in rows if metric in row.metrics]
            values = [one.value for _, one in estimates]
            # An interval by bootstrap may leave its own estimate outside by a rounding error.
            errors = [
                [max(0.0, one.value - one.low) for _, one in estimates],
                [max(0.0, one.high - one.value) for _, one in estimates],
            ]
            axes.errorbar(
                [version for version, _ in estimates], values, errors, color=color, marker="o", markersize=3.5,
                linewidth=1.4, elinewidth=1, capsize=2.5, label=label(f"{name}, {sampling}, {metric}"),
            )  # fmt: skip
        axes.set(xlabel="version", ylabel="mean, with its 95 % interval")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderaxespad=0)

    return plot
