"""Charts of a run as inline SVG, which uses the page's own font and fetches nothing.

Each chart is a function that takes the recorded metrics and returns a function that draws on given axes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from learner.cli.run.run_history import LearnerHistory, Row, RunHistory

INK, BLUE, ORANGE, GREEN, GREY = "#334155", "#2563eb", "#d97706", "#059669", "#94a3b8"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#cbd5e1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eef2f6",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}


def draw(name: str, plot: Callable[[Axes], None], size: tuple[float, float] = (5.4, 2.7)) -> str:
    """Draws a chart and returns it as one SVG element.

    Args:
        name: a name that is unique on the page; ids inside the SVG are derived from it.
        plot: draws on the axes it is given.
        size: width and height in inches, of 96 pixels each.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("<svg ", '<svg role="img" ', 1)
    used = set(re.findall(r"#([\w.-]+)", text))
    return re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", text)


def reward(learner: LearnerHistory) -> Callable[[Axes], None]:
    """Mean reward of each step, and its mean over 10 steps."""

    def plot(axes: Axes) -> None:
        steps, values = _series(learner, "reward")
        axes.plot(steps, values, ".", color=BLUE, alpha=0.25, markersize=4, markeredgewidth=0)
        axes.plot(steps, rolling(values, 10), color=BLUE, label="mean of 10 steps")
        axes.set(xlabel="step", ylabel="mean sampled reward")
        _from_zero(axes)
        _legend(axes)

    return plot


def staleness(learner: LearnerHistory) -> Callable[[Axes], None]:
    """Share of the trained response tokens by staleness."""

    def plot(axes: Axes) -> None:
        counts = staleness_tokens(learner)
        total = sum(counts.values()) or 1
        axes.bar([*counts], [100 * count / total for count in counts.values()], color=BLUE, alpha=0.85, width=0.8)
        axes.set(xlabel="staleness when trained, optimizer steps", ylabel="share of response tokens, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)

    return plot


def staleness_tokens(learner: LearnerHistory) -> dict[int, int]:
    """Number of trained response tokens by staleness in optimizer steps, ascending.

    A step whose row has no tokens by staleness counts with its mean staleness, rounded.
    """
    counts: dict[int, int] = {}
    for row in learner.steps.values():
        detail = row.get("staleness_tokens") or {round(row["staleness_mean"]): row["tokens"]}
        for value, tokens in detail.items():
            counts[int(value)] = counts.get(int(value), 0) + tokens
    return dict(sorted(counts.items()))


def scales(learner: LearnerHistory) -> Callable[[Axes], None]:
    """Mean negative log-likelihood (NLL) of responses with a positive and with a negative advantage."""

    def plot(axes: Axes) -> None:
        steps, positive, negative = _scales(learner)
        axes.plot(steps, positive, color=GREEN, label="positive advantage")
        axes.plot(steps, negative, color=ORANGE, label="negative advantage")
        axes.set(xlabel="step", ylabel="NLL, nats per token")
        _from_zero(axes)
        _legend(axes)

    return plot


def rho(learner: LearnerHistory) -> Callable[[Axes], None]:
    """Weight rho of negatives against positives, as measured from each step's gradient: unsafe when its mean is near 1."""

    def plot(axes: Axes) -> None:
        steps, values = _series(learner, "rho")
        axes.plot(steps, values, color=BLUE, linewidth=0.5, alpha=0.5)
        axes.plot(steps, rolling(values, 10), color=BLUE)
        axes.axhline(0.3, color=GREY, linewidth=1, linestyle="--")
        axes.set(xlabel="step", ylabel="ρ, weight of negatives / positives")
        _from_zero(axes)

    return plot


def warm_start(learner: LearnerHistory) -> Callable[[Axes], None]:
    """Mean probability of a whole reference response during the supervised warm start."""

    def plot(axes: Axes) -> None:
        rows = learner.warmup
        steps = [row["step"] for row in rows]
        axes.plot(steps, [row["target_probability"] for row in rows], color=BLUE)
        axes.set(xlabel="supervised step", ylabel="probability")
        _from_zero(axes)

    return plot


def health(learner: LearnerHistory) -> Callable[[Axes], None]:
    """Entropy, share of informative groups and gradient norm, each as a mean over 10 steps."""

    def plot(axes: Axes) -> None:
        for key, color, label in (
            ("entropy", BLUE, "entropy, nats/token"),
            ("informative", GREEN, "informative groups, share"),
        ):
            steps, values = _series(learner, key)
            axes.plot(steps, rolling(values, 10), color=color, label=label)
        axes.set(xlabel="step")
        right = axes.twinx()
        steps, norms = _series(learner, "grad_norm")
        right.plot(steps, rolling(norms, 10), color=ORANGE, linewidth=1.2)
        axes.plot([], [], color=ORANGE, linewidth=1.2, label="gradient norm (right)")
        right.spines["right"].set_visible(True)
        right.grid(visible=False)
        _from_zero(right)
        _from_zero(axes)
        _legend(axes)

    return plot


def updates(learner: LearnerHistory) -> Callable[[Axes], None]:
    """G_upd, the update norm per unit learning rate, and the cosine between consecutive updates."""

    def plot(axes: Axes) -> None:
        steps, growth = _series(learner, "growth")
        axes.plot(steps, growth, color=BLUE, linewidth=1.2, label="update norm per unit learning rate")
        axes.set(xlabel="step")
        right = axes.twinx()
        steps, cosines = _series(learner, "ballistic")
        right.plot(steps, rolling(cosines, 10), color=ORANGE, linewidth=1.2)
        axes.plot([], [], color=ORANGE, linewidth=1.2, label="cosine without momentum (right)")
        right.axhline(0.7, color=GREY, linewidth=1, linestyle="--")
        right.set_ylim(-1, 1)
        right.spines["right"].set_visible(True)
        right.grid(visible=False)
        _from_zero(axes)
        _legend(axes)

    return plot


def throughput(history: RunHistory, start: float) -> Callable[[Axes], None]:
    """Response tokens per second, generated by each worker and trained. ``start``: time 0, in Unix seconds."""

    def plot(axes: Axes) -> None:
        for name, worker in history.workers.items():
            times = [row["time"] - start for row in worker.progress]
            rates = [row["tokens_per_s"] for row in worker.progress]
            axes.plot(times, rolling(rates, 5), color=BLUE, label=f"generated by {name}")
        rows = list(history.learner.steps.values())
        pairs = [(a, b) for a, b in zip(rows, rows[10:], strict=False) if b["time"] > a["time"]]
        rates = [_tokens_between(rows, a, b) / (b["time"] - a["time"]) for a, b in pairs]
        axes.plot([b["time"] - start for _, b in pairs], rates, color=ORANGE, label="trained")
        axes.set(xlabel="seconds since the start", ylabel="response tokens per second")
        _from_zero(axes)
        _legend(axes)

    return plot


def queue_depth(history: RunHistory, start: float, capacity: int) -> Callable[[Axes], None]:
    """Accepted groups in the queue.

    Args:
        history: the run's recorded metrics.
        start: time 0, in Unix seconds.
        capacity: most groups that admission allows.
    """

    def plot(axes: Axes) -> None:
        rows = list(history.learner.steps.values())
        times = [row["time"] - start for row in rows]
        axes.plot(times, [row["queue_depth"] for row in rows], color=BLUE, linewidth=1.2, label="groups waiting")
        axes.axhline(capacity, color=GREY, linestyle=(0, (3, 2)), linewidth=1.2, label="most that admission allows")
        axes.set(xlabel="seconds since the start", ylabel="groups")
        _from_zero(axes)
        _legend(axes)

    return plot


def versions(history: RunHistory, start: float) -> Callable[[Axes], None]:
    """Versions when the learner published them and when each worker loaded them. ``start``: time 0, in Unix seconds."""

    def plot(axes: Axes) -> None:
        published = history.learner.versions
        axes.plot([row["time"] - start for row in published], [row["version"] for row in published], color=INK,
                  drawstyle="steps-post", linewidth=1.2, label="published by the learner")  # fmt: skip
        for name, worker in history.workers.items():
            times = [row["time"] - start for row in worker.refits]
            loaded = [row["version"] for row in worker.refits]
            axes.plot(times, loaded, ".", color=ORANGE, markersize=4, label=f"loaded by {name}")
        axes.set(xlabel="seconds since the start", ylabel="version")
        _from_zero(axes)
        _legend(axes)

    return plot


def step_time(learner: LearnerHistory) -> Callable[[Axes], None]:
    """Seconds per step by activity, each as a mean over 10 steps."""

    def plot(axes: Axes) -> None:
        rows = learner.steady()
        keys = ("train_s", "wait_s", "publish_s")
        seconds = [rolling([row[key] for row in rows], 10) for key in keys]
        labels = ["compute", "wait", "publish"]
        axes.stackplot(
            [row["step"] for row in rows], seconds, labels=labels, colors=[BLUE, "#cbd5e1", ORANGE], alpha=0.85
        )
        axes.set(xlabel="step", ylabel="seconds per step")
        _legend(axes)

    return plot


def rolling(values: Sequence[float], width: int) -> list[float]:
    """Moving average: at each index, the mean of the last ``width`` values (of fewer at the beginning)."""
    sums, result = 0.0, []
    for index, value in enumerate(values):
        sums += value - (values[index - width] if index >= width else 0.0)
        result.append(sums / min(index + 1, width))
    return result


def _tokens_between(rows: Sequence[Row], first: Row, last: Row) -> float:
    return sum(row["tokens"] for row in rows if first["step"] < row["step"] <= last["step"])


def _scales(learner: LearnerHistory) -> tuple[list[int], list[float], list[float]]:
    """Steps that have responses with either sign of advantage; their NLL of positives and of negatives, averaged over 10."""
    rows = [row for row in learner.steps.values() if row["nll_positive"] and row["nll_negative"]]
    positive, negative = ([row[key] for row in rows] for key in ("nll_positive", "nll_negative"))
    return [row["step"] for row in rows], rolling(positive, 10), rolling(negative, 10)


def _series(learner: LearnerHistory, key: str) -> tuple[list[int], list[float]]:
    rows = [row for row in learner.steps.values() if row.get(key) is not None]
    return [row["step"] for row in rows], [row[key] for row in rows]


def _legend(axes: Axes) -> None:
    """Draws the legend above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, borderaxespad=0, handlelength=1.2, columnspacing=1.2
    )


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
