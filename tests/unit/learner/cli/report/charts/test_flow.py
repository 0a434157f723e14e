"""What flows, as lines."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learner.cli.report.charts import flow
from learner.cli.report.charts.drawing import Plot
from tests.tools.runs import step


def drawn(plot: Plot) -> Axes:
    axes = Figure().add_subplot()
    plot(axes)
    return axes


def lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): [float(y) for y in line.get_ydata()] for line in axes.lines}  # type: ignore[union-attr]


def test_the_most_that_leases_allow_follows_what_steps_consume():
    """(4 + 1) steps of 16 groups, or of the 20 that a step with replacements consumes."""
    rows = [step(1, queue_depth=7), step(2, queue_depth=9, consumed=20.0), step(3, consumed=3.0)]
    found = lines(drawn(flow.queue_depth(rows, 1000.0, 16, 4)))
    assert found["most that leases allow"] == [80, 100, 80]
    assert found["groups waiting"] == [7, 9, 3]


def test_wasted_tokens_add_up_by_reason():
    rows = [step(1), step(2, tokens_wasted={"expired": 5}), step(3, tokens_wasted={"expired": 2, "withdrawn": 1})]
    assert lines(drawn(flow.waste(rows))) == {"expired": [5, 7], "withdrawn": [0, 1]}
