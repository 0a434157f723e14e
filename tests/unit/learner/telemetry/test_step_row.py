"""The few numbers of a step that operators are shown first."""

from __future__ import annotations

from learner.telemetry.step_row import headline


def test_what_is_not_known_is_left_out_and_nothing_else_is_shown():
    row = {"step": 7, "reward": 0.5, "loss": -1.0, "lr": 1e-6, "grad_norm": None, "staleness_mean": 2, "groups": 16}
    assert headline(row) == {"reward": 0.5, "loss": -1.0, "lr": 1e-6, "staleness_mean": 2.0}
