"""A worker with old weights is granted no more than the learner trains before they are too old."""

from __future__ import annotations

import pytest

from learner.gateway.lease_limit import within_age
from learner.queue import Allowance


@pytest.mark.parametrize(("left", "bound"), [(None, 80), (40, 80), (4, 80), (3, 64), (0, 16), (-1, 0), (-9, 0)])
def test_the_bound_falls_with_the_steps_that_are_left(left: int | None, bound: int):
    assert within_age(Allowance(80, 70, {"b": 3}), left, 16) == Allowance(bound, 70, {"b": 3})
