"""The reward format."""

from __future__ import annotations

import pytest

from tests.unit.rollout.rewards.judging import value


@pytest.mark.parametrize(
    ("text", "thinking", "reward"),
    [
        ("<think>so</think>18", False, 1.0),
        ("\n<think>\nso\n</think>\n\nThe answer is 18.\n", False, 1.0),
        ("so</think>18", True, 1.0),
        ("so</think>18", False, 0.0),
        ("<think>so</think>18", True, 0.0),
        ("<think></think>18", False, 0.0),
        ("<think>so</think> ", False, 0.0),
        ("<think>so", False, 0.0),
        ("18", False, 0.0),
        ("ah <think>so</think>18", False, 0.0),
        ("<think>a</think><think>b</think>18", False, 0.0),
    ],
)
def test_reasoning_and_then_an_answer(text: str, thinking: bool, reward: float):
    assert value("format", text, thinking=thinking) == reward


def test_another_pattern_is_for_the_whole_response():
    assert value("format", "18!", options={"pattern": r"\d+!"}) == 1.0
    assert value("format", "so 18!", options={"pattern": r"\d+!"}) == 0.0
