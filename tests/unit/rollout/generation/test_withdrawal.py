"""Which groups are not submitted, and when too many of them cannot be scored."""

from __future__ import annotations

import pytest

from leeway.v1 import rollout_pb2
from rollout.engine.sglang import Response
from rollout.generation.withdrawal import ScoringHealth, Withdrawal, unusable

DONE, CUT, ABORTED = Response([1], "stop", []), Response([1], "length", []), Response([], "abort", [], message="full")
GROUP, FAILED = rollout_pb2.Group(), Withdrawal("reward_timeout", "too slow")


def test_an_aborted_response_withdraws_its_group_under_either_policy():
    for policy in ("train", "withdraw"):
        withdrawal = unusable([DONE, CUT, ABORTED], policy)
        assert withdrawal == Withdrawal("aborted", "the engine aborted a response: full")


def test_a_truncated_response_is_trained_or_withdrawn_as_the_run_says():
    assert unusable([DONE, CUT], "train") is None
    withdrawal = unusable([DONE, CUT, CUT], "withdraw")
    assert withdrawal is not None
    assert withdrawal.reason == "truncated"
    assert "2 of 3 responses reached max_new_tokens" in withdrawal.message
    assert unusable([DONE, DONE], "withdraw") is None


def test_most_of_twenty_groups_have_to_fail():
    health = ScoringHealth()
    assert health.note([FAILED] * 19) is None
    assert health.note([FAILED]) == "20 of the last 20 groups could not be scored; the last: too slow"


def test_half_of_the_groups_may_fail_and_old_failures_are_forgotten():
    health = ScoringHealth()
    assert health.note([GROUP, FAILED] * 60) is None
    assert health.note([FAILED, FAILED]) == "51 of the last 100 groups could not be scored; the last: too slow"
    assert health.note([GROUP] * 100) is None
    assert health.note([FAILED] * 50) is None


@pytest.mark.parametrize("reason", ["aborted", "nan", "truncated"])
def test_what_nobody_tried_to_score_says_nothing_about_the_task(reason):
    assert ScoringHealth().note([Withdrawal(reason, "")] * 100) is None
