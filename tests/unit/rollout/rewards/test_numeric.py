"""The reward numeric."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.rewards.registry import RewardPart, make_reward
from rollout.tasks import TaskError
from rollout.tasks.reward_error import RewardError
from tests.unit.rollout.rewards.judging import value


@pytest.mark.parametrize(
    ("text", "answer", "options", "reward"),
    [
        ("So it is 18.", "18", {}, 1.0),
        ("18 eggs, then 17", "18", {}, 0.0),
        ("1,234", "1234", {}, 1.0),
        ("It costs $1,234.50.", "1234.5", {}, 1.0),
        ("1 234", "1234", {}, 1.0),
        ("a half, 1/2", "0.5", {}, 1.0),
        ("50%", "0.5", {}, 1.0),
        ("50%", "50", {}, 1.0),
        ("-5", "5", {}, 0.0),
        ("no number", "5", {}, 0.0),
        ("", "5", {}, 0.0),
        ("3.1", "3.14", {}, 0.0),
        ("3.1", "3.14", {"tolerance": 0.05}, 1.0),
        ("3.0", "3.14", {"tolerance": 0.05}, 0.0),
        ("95", "100", {"relative": 0.05}, 1.0),
        ("94", "100", {"relative": 0.05}, 0.0),
        ("total=18; checked 3 times", "18", {"pattern": r"total=(\S+);"}, 1.0),
        ("total=18; checked 3 times", "18", {"pattern": r"sum=(\S+);"}, 0.0),
        ("<think>18</think> 17", "18", {}, 0.0),
        ("<think>18", "18", {}, 0.0),
        ("18", 18, {}, 1.0),
        ("0.1", 0.1, {}, 1.0),
    ],
)
def test_the_last_number_counts(text: str, answer: Any, options: dict[str, Any], reward: float):
    assert value("numeric", text, answer, options) == reward


def test_an_answer_that_is_no_number_is_unscored():
    with pytest.raises(RewardError, match="the prompt's answer 'Paris' is no number"):
        value("numeric", "18", "Paris")


@pytest.mark.parametrize("option", ["tolerance", "relative"])
@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(option: str, bad: float):
    with pytest.raises(TaskError, match=f"{option} = {bad}"):
        make_reward(RewardPart("numeric", options={option: bad}))


def test_long_hostile_texts_are_read_in_one_pass():
    for unit in ("1,", "1 ", "1.", "-", "1/", "\\frac{", "1 000 "):
        assert value("numeric", unit * 50_000) == 0.0
    with pytest.raises(RewardError, match="a number of 50000 digits is too long to be compared"):
        value("numeric", "9" * 50_000)
