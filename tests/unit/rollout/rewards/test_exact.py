"""The reward exact."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.rollout.rewards.judging import value


@pytest.mark.parametrize(
    ("text", "options", "reward"),
    [
        ("Paris", {}, 1.0),
        (" Paris\n", {}, 1.0),
        (" Paris", {"strip": False}, 0.0),
        ("Paris", {"strip": False}, 1.0),
        ("paris", {}, 0.0),
        ("PARIS", {"casefold": True}, 1.0),
        ("Paris.", {}, 0.0),
        ("", {}, 0.0),
        ("<think>London?</think>\nParis", {}, 1.0),
        ("<think>Paris", {}, 0.0),
        ("<think>Paris</think>", {}, 0.0),
    ],
)
def test_the_response_is_the_answer(text: str, options: dict[str, Any], reward: float):
    assert value("exact", text, "Paris", options) == reward


def test_an_integer_is_an_answer_and_a_list_several():
    assert value("exact", "18", 18) == 1.0
    assert value("exact", "18", ["17", "18"]) == 1.0
    assert value("exact", "Paris", "Paris", thinking=True) == 0.0
