"""Which groups are not submitted, and when too many of them cannot be scored."""

from __future__ import annotations

import pytest

from leeway.v1 import rollout_pb2
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.withdrawal import ScoringHealth, Withdrawal, cut_off, known, too_few
from rollout.tasks.score import Score

GROUP, FAILED = rollout_pb2.Group(), Withdrawal("reward_timeout", "too slow")
SCORED = ResponseOutcome([], "stop", Score(1.0))


def unscored(reason: str, message: str = "") -> ResponseOutcome:
    return ResponseOutcome([], "abort", None, reason, message)


def test_a_group_needs_two_scored_responses():
    failed = unscored("reward_error", "scripted")
    assert too_few([SCORED, failed, SCORED, failed]) is None
    assert too_few([SCORED, failed, unscored("aborted")]) == Withdrawal("reward_error", "scripted")
    assert too_few([SCORED]) is None  # a group of one is as its run wants it


def test_a_reason_of_an_agents_own_is_counted_as_other():
    assert too_few([SCORED, unscored("agent_was_bored", "so it said")]) == Withdrawal("other", "so it said")
    assert (known("limit_turns"), known("agent_was_bored")) == ("limit_turns", "other")


def test_a_truncated_response_withdraws_its_group_where_the_run_says_so():
    withdrawal = cut_off(["stop", "length", "length"])
    assert withdrawal is not None
    assert withdrawal.reason == "truncated"
    assert "2 of 3 responses reached max_new_tokens" in withdrawal.message
    assert cut_off(["stop", "abort"]) is None


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


@pytest.mark.parametrize("reason", ["judge_unavailable", "judge_output", "judge_budget"])
def test_a_judge_elsewhere_that_fails_most_of_the_time_ends_the_worker(reason: str):
    assert known(reason) == reason
    assert ScoringHealth().note([Withdrawal(reason, "it said")] * 20) is not None


@pytest.mark.parametrize("reason", ["aborted", "nan", "truncated", "unjudgeable"])
def test_what_nobody_tried_to_score_says_nothing_about_the_task(reason):
    assert ScoringHealth().note([Withdrawal(reason, "")] * 100) is None


def test_a_group_of_which_most_responses_could_not_be_judged_counts_as_failed():
    responses = [rollout_pb2.Response(unscored=reason) for reason in ("", "", "environment_died")]
    few = rollout_pb2.Group(responses=responses)
    most = rollout_pb2.Group(responses=[*responses, *([responses[-1]] * 2)])
    health = ScoringHealth()
    assert health.note([few] * 50) is None
    message = "51 of the last 100 groups could not be scored; the last: environment_died"
    assert health.note([most] * 51) == message
