"""Rewards by task and part, by hand; names beyond the bound are taken together."""

from __future__ import annotations

import pytest

from learner.batch.task_statistics import OTHER, TaskStatistics, by_task
from leeway.v1 import rollout_pb2 as pb


def group(task: str, *rewards: float, **parts: float) -> pb.Group:
    return pb.Group(task=task, responses=[pb.Response(reward=reward, reward_parts=parts) for reward in rewards])


def test_rewards_by_task_and_part_by_hand():
    first, second = group("add", 1.0, 0.0, exact=1.0, format=0.5), group("add", 1.0, 1.0, exact=0.0)
    first.responses[1].ClearField("reward_parts")
    first.responses.add(reward=100.0, unscored="judge_failed", reward_parts={"exact": 100.0})
    found = by_task([first, group("sort", 2.0, 4.0), second])
    assert list(found) == ["add", "sort"]
    # exact: 1 once, 0 twice; format: 0.5 once
    assert found["add"].reward_sd == pytest.approx(3**0.5 / 4)
    expected = TaskStatistics(2, 0.75, found["add"].reward_sd, 0.5, {"exact": 1 / 3, "format": 0.5})
    assert found["add"] == expected
    assert found["sort"] == TaskStatistics(1, 3.0, 1.0, 1.0, {})


def test_a_task_that_nobody_judged_has_no_reward():
    one = group("add", 1.0, 1.0, exact=1.0)
    for response in one.responses:
        response.unscored = "judge_failed"
    assert by_task([one]) == {"add": TaskStatistics(1, None, None, 0.0, {})}


def test_names_beyond_the_bound_are_taken_together():
    groups = [group(f"task-{number:03}", 1.0, 0.0) for number in range(40)] + [group("task-039", 1.0, 1.0)]
    found = by_task(groups)
    assert len(found) == 33
    assert "task-039" in found  # the one with two groups
    assert "task-030" in found
    assert (found[OTHER].groups, found[OTHER].informative) == (8, 1.0)
    many = by_task([group("add", 1.0, 0.0, **{f"part{number:03}": float(number) for number in range(50)})])["add"].parts
    assert len(many) == 33
    assert many[OTHER] == sum(range(32, 50)) / 18
