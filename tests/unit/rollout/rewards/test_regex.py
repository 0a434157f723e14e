"""The reward regex."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.rewards.registry import RewardPart, make_reward
from rollout.tasks import TaskError
from tests.unit.rollout.rewards.judging import value


@pytest.mark.parametrize(
    ("text", "options", "reward"),
    [
        ("I say: 18!", {"pattern": r"say: (\d+)"}, 1.0),
        ("say: 18, no, say: 19", {"pattern": r"say: (\d+)"}, 0.0),
        ("say: 19, no, say: 18", {"pattern": r"say: (\d+)"}, 1.0),
        ("nothing", {"pattern": r"say: (\d+)"}, 0.0),
        ("SAY: 18", {"pattern": r"say: (\d+)", "casefold": True}, 1.0),
        ("there is a fox", {"pattern": "fox"}, 1.0),
        ("there is a hen", {"pattern": "fox"}, 0.0),
        ("<think>fox</think>hen", {"pattern": "fox"}, 0.0),
        ("<think>fox</think>hen", {"pattern": "fox", "reasoning": True}, 1.0),
        ("<think>fox", {"pattern": "fox"}, 0.0),
        ("b", {"pattern": "(a)?b"}, 0.0),
    ],
)
def test_a_pattern_is_found_or_finds_the_answer(text: str, options: dict[str, Any], reward: float):
    assert value("regex", text, "18", options) == reward


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(TaskError, match=r"part 'regex' \(regex\): pattern = '\(': missing \)"):
        make_reward(RewardPart("regex", options={"pattern": "("}))
