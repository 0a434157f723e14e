"""What a run's rows say of a learning rate that something keeps below its ceiling."""

from __future__ import annotations

from typing import Any

from learner.cli.run.governed import far_below, governed
from tests.tools.runs import step


def bounded(number: int, share: float | None, **values: Any) -> dict[str, Any]:
    return step(number, lr=(share or 0.0) * 1e-3, lr_ceiling_share=share, **values)


def test_a_rate_is_summarised_by_its_ends_its_share_and_what_was_measured():
    rows = [
        bounded(1, 0.02),
        bounded(2, 1.0, drift_measured=None),
        bounded(3, 0.5, drift_measured=0.25),
        bounded(4, 0.25, drift_measured=0.75),
        bounded(5, None),  # a hold
    ]
    assert governed(rows) == {"first": 2e-5, "last": 2.5e-4, "share": 0.25, "bounded": 0.75, "drift": 0.5}


def test_only_the_last_20_measurements_count():
    rows = [bounded(number, 0.5, drift_measured=9.0 if number <= 5 else 0.125) for number in range(1, 26)]
    assert (governed(rows) or {})["drift"] == 0.125


def test_a_run_without_a_ceiling_has_nothing_to_say():
    assert governed([step(1), bounded(2, None)]) is None
    assert governed([]) is None
    assert (governed([bounded(1, 0.5)]) or {})["drift"] is None


def test_a_rate_is_far_below_after_50_steps_in_a_row_up_to_the_last():
    long = [bounded(number, 0.09) for number in range(2, 52)]
    assert far_below([bounded(1, 0.5), *long]) == long
    assert far_below([*long[:20], bounded(22, None), *long[21:], bounded(52, 0.09)]) != []  # a hold between them
    assert far_below(long[1:]) == []
    assert far_below([*long, bounded(52, 0.1)]) == []
    assert far_below([step(1)]) == []
