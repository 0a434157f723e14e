"""Charts of what bounds the learning rate."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learner.cli.report.charts.drawing import Plot, draw
from learner.cli.report.charts.drift import effective_sample, gradient_cosine, movement, rate_and_ceiling
from learner.cli.run.run_history import Row
from tests.tools.runs import step


def drawn(plot: Plot) -> Axes:
    """The axes of a chart; fails if drawing it warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw("chart", plot)
        axes = Figure().add_subplot()
        plot(axes)
    return axes


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each line, by its label."""
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in np.column_stack(line.get_data())]
        for line in axes.get_lines()
    }


def test_the_rate_and_its_ceiling_are_on_a_logarithmic_scale_and_a_held_step_is_a_gap():
    rows = [step(n, lr=rate, lr_scheduled=1e-3) for n, rate in enumerate((2e-5, 0.0, 1e-3), start=1)]
    axes = drawn(rate_and_ceiling(rows))
    assert axes.get_yscale() == "log"
    found = lines(axes)
    assert found["ceiling"] == [(1, 1e-3), (2, 1e-3), (3, 1e-3)]
    assert [x for x, y in found["used"] if y != y] == [2]
    assert [(x, y) for x, y in found["used"] if y == y] == [(1, 2e-5), (3, 1e-3)]


@pytest.mark.parametrize("target", [0.4, None])
def test_measurements_the_prediction_and_its_target(target: float | None):
    rows = [step(1), step(2, drift_predicted=0.1, drift_measured=0.05), step(3, drift_predicted=0.2)]
    found = lines(drawn(movement(rows, 4, target)))
    assert found["predicted over the age of the data"] == [(2, 0.1), (3, 0.2)]
    assert found["measured over 4 steps"] == [(2, 0.05)]
    assert [y for _, y in found.get("target", [])] == ([0.4, 0.4] if target else [])


@pytest.mark.parametrize(
    ("plot", "name", "label"),
    [(effective_sample, "ess_share", "share of the responses"), (gradient_cosine, "gradient_cosine", "cosine")],
)
def test_a_share_and_a_cosine_are_drawn_step_by_step_and_smoothed(
    plot: Callable[[Sequence[Row]], Plot], name: str, label: str
):
    rows = [step(1, **{name: 0.5}), step(2, **{name: None}), step(3, **{name: 1.0})]
    axes = drawn(plot(rows))
    single, smooth = (np.asarray(line.get_ydata()).tolist() for line in axes.get_lines())
    assert (single, smooth) == ([0.5, 1.0], [0.5, 0.75])
    assert axes.get_ylabel() == label


@pytest.mark.parametrize("rows", [[], [step(1)], [step(1, lr=0.0, lr_scheduled=0.0, lr_ceiling_share=None)]])
def test_rows_without_any_of_it_draw_without_a_warning(rows: list[Row]):
    for plot in (rate_and_ceiling(rows), movement(rows, 4, 0.4), effective_sample(rows), gradient_cosine(rows)):
        drawn(plot)
        assert re.search("<svg", draw("chart", plot))
