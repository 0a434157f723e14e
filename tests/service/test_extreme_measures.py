"""Tests that no measure of a group, however extreme, keeps Redis in a loop when the group leaves the queue."""

from __future__ import annotations

import dataclasses
import math

import pytest

from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import valid_group
from tests.service.queueing import append, begun, ledger


@pytest.mark.parametrize(
    ("measures", "lower"),
    [
        ({"reward": math.inf}, 2.0**62),
        ({"reward": -math.inf}, -(2.0**63)),
        ({"reward": 1.7e308}, 2.0**62),
        ({"reward": -1.7e308}, -(2.0**63)),
        ({"reward": 1e18}, 2.0**59),
        ({"reward": math.nan}, 1.0),
        ({"responses": 0}, 0.0),
    ],
)
async def test_finish_ends(config, gateway_queue, open_learner, measures: dict[str, float], lower: float):
    learner = begun(open_learner)
    group = dataclasses.replace(append(valid_group()), **measures)
    await gateway_queue.flush([group], {}, [])
    learner.commit(1, [one.ref for one in learner.take(1, 0, 2)])
    found = ledger(config)
    assert found.trained == 1
    rewards = [bucket for bucket in found.histogram if bucket.measure == pb.MEASURE_REWARD]
    assert [bucket.count for bucket in rewards] == [1]
    if "reward" in measures:
        assert rewards[0].lower == lower
