"""Shares of groups, stacked."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from learner.cli.report.charts.groups import shares
from tests.tools.runs import step


def test_the_shares_and_what_was_not_scored_add_up_to_all_groups():
    """0.5 + 0.25 + 0.125, and 0.125 that no judge scored; a row of an earlier kind is left out."""
    rows = [
        step(1),
        step(2, informative=0.5, all_right=0.25, all_wrong=0.125),
        step(3, informative=1.0, all_right=0.0, all_wrong=0.0),
    ]
    axes = Figure().add_subplot()
    shares(rows)(axes)
    bands = [np.asarray(band.get_paths()[0].vertices) for band in axes.collections]
    assert len(bands) == 4
    tops = [max(y for x, y in band if x == 2) for band in bands]
    assert tops == pytest.approx([50, 75, 87.5, 100])
    assert max(y for x, y in bands[2] if x == 3) == pytest.approx((87.5 + 100) / 2)  # smoothed over both steps
    assert min(x for x, _ in bands[0]) == 2
