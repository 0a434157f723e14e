"""Draws a chart as one SVG element that uses the page's own font and fetches nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learner.cli.report.charts.series import SMOOTH, rolling

Plot = Callable[[Axes], None]

INK, BLUE, ORANGE, GREEN, RED, GREY = "#334155", "#2563eb", "#d97706", "#059669", "#dc2626", "#94a3b8"
PALETTE = (BLUE, ORANGE, GREEN, "#9333ea", "#0891b2", RED, "#a16207", "#be185d")
_LABEL = 32  # characters of a name in a legend
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


def draw(name: str, plot: Plot, size: tuple[float, float] = (5.4, 2.7)) -> str:
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


def label(name: str) -> str:
    """A name from elsewhere, such as a task's, as text that stays text in a legend.

    Between dollar signs would be a formula, behind an underscore nothing is shown, and XML has no control characters.
    """
    text = "".join(one if one.isprintable() else "?" for one in name)
    text = text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"
    return ("\u200a" if text.startswith("_") else "") + text.replace("$", r"\$")


def legend(axes: Axes) -> None:
    """Draws the legend above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, borderaxespad=0, handlelength=1.2, columnspacing=1.2
    )


def noisy(axes: Axes, steps: Sequence[int], values: Sequence[float], color: str) -> None:
    """Draws a quantity that scatters from step to step: each value thinly, and their mean over 10 steps."""
    axes.plot(steps, values, color=color, linewidth=0.5, alpha=0.5)
    axes.plot(steps, rolling(values, SMOOTH), color=color)


def from_zero(axes: Axes) -> None:
    """Lets both axes begin at 0."""
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
