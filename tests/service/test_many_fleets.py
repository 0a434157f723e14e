"""Tests fifty fleets with two hundred streams at once on one gateway: every group is accepted and accounted for."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.many_fleets import FLEETS, STREAMS, measure


async def test_fifty_fleets_on_two_hundred_streams(tmp_path: Path):
    groups = 10
    crowd = await measure(tmp_path, groups=groups, per_s=1.0)
    print(crowd)
    assert crowd.errors == []
    assert crowd.violations == []
    assert len(crowd.latencies) == STREAMS * groups
    assert crowd.fleets == FLEETS
