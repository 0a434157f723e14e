"""Turns that the refused groups of a fleet over its rate are given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.config import QuotaConfig
from learner.gateway.quota import Quotas

TEN = Quotas(QuotaConfig(groups_per_s=10), {"free": QuotaConfig(), "bytes": QuotaConfig(bytes_per_s=1000)})


def test_a_fleet_has_its_own_quota_or_the_default():
    assert TEN.has_rate("anybody")
    assert TEN.has_rate("bytes")
    assert not TEN.has_rate("free")
    assert not Quotas(QuotaConfig(max_queued_groups=1), {}).has_rate("anybody")


def test_turns_follow_one_another_at_the_rate():
    quotas = Quotas(QuotaConfig(groups_per_s=10), {})
    quotas.refused("a", now=100.0, wait_s=0.05)
    assert [quotas.turn("a", 100.0, 1) for _ in range(3)] == pytest.approx([0.05, 0.15, 0.25])
    assert [quotas.closed("a", now) for now in (100.0, 100.049, 100.051)] == [True, True, False]
    assert not quotas.closed("b", 100.0)
    assert quotas.turn("a", 101.0, 1) == 0.0  # all earlier turns are over


def test_turns_are_as_far_apart_as_bytes_need():
    quotas = Quotas(QuotaConfig(groups_per_s=10, bytes_per_s=1000), {})
    quotas.refused("a", 0.0, 1.0)
    assert [quotas.turn("a", 0.0, size) for size in (500, 10, 10)] == pytest.approx([1.0, 1.5, 1.6])


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 100_000)), max_size=60), st.floats(0.01, 1e4))
def test_no_turn_lies_in_the_past_or_beyond_the_horizon(steps: list[tuple[float, int]], rate: float):
    quotas = Quotas(QuotaConfig(groups_per_s=rate, bytes_per_s=rate * 1000), {})
    now = 50.0
    for pause, size in steps:
        now += pause
        quotas.refused("a", now, 1 / rate)
        assert 0 <= quotas.turn("a", now, size) <= 30


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=100))
def test_turns_given_are_never_denser_than_the_rate(pauses: list[float]):
    quotas, now, turns = Quotas(QuotaConfig(groups_per_s=10), {}), 0.0, []
    for pause in pauses:
        now += pause
        turns.append(now + quotas.turn("a", now, 0))
    for i, start in enumerate(turns):
        within = [turn for turn in turns[i:] if turn < start + 1.0 - 1e-6]
        assert len(within) <= 10
