"""Tests that fleets that send more than the learner can train share it by weight in tokens, also beside a flood."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.shares import FLOOD, WEIGHTS, Shares, measure

TOKENS = 150_000


def assert_three_to_one(shares: Shares) -> None:
    assert shares.starved == 0  # both had groups waiting at every take: it was the learner who chose
    assert shares.ratio == pytest.approx(3.0, rel=0.02)


async def test_weights_share_the_learner_in_tokens_when_groups_are_alike(tmp_path: Path):
    assert_three_to_one(await measure(tmp_path, TOKENS, flood=False, sizes="same"))


async def test_a_flood_at_twenty_times_its_quota_changes_nobodys_share(tmp_path: Path):
    """Measures shares with groups of different sizes, first without the flood, then beside it."""
    alone = await measure(tmp_path / "alone", TOKENS, flood=False)
    assert_three_to_one(alone)
    beside = await measure(tmp_path / "beside", TOKENS, flood=True)
    assert_three_to_one(beside)
    for fleet in WEIGHTS:
        assert beside.share(fleet) == pytest.approx(alone.share(fleet), rel=0.02)
    assert beside.tokens[FLOOD] > 0  # its quota is its own
    sent = sum(beside.outcomes.values())
    assert set(beside.outcomes) == {"ACCEPTED", "RETRY"}
    assert beside.outcomes["RETRY"] > 0.8 * sent
    assert set(beside.reasons) - {""} == {"quota_rate"}
