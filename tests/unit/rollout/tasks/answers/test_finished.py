"""The part of a response outside its reasoning."""

from __future__ import annotations

import pytest

from rollout.tasks.answers.finished import finished_text


@pytest.mark.parametrize(
    ("text", "thinking", "finished"),
    [
        ("18", False, "18"),
        ("18", True, None),
        ("so</think>18", True, "18"),
        ("so</think>18", False, "18"),
        ("<think>so</think>18", False, "18"),
        ("<think>so</think>18", True, "18"),
        ("a<think>b</think>c<think>d</think>e", False, "ace"),
        ("a<think>b</think>c<think>d", False, None),
        ("<think>a<think>b</think>c", False, "c"),
        ("a</think>b</think>c", False, "c"),
        ("<think>a</think>", False, ""),
        ("<THINKING>a</Thinking> b", False, " b"),
        ("", False, ""),
        ("", True, None),
        ("</think>", True, ""),
        ("<think", False, "<think"),
    ],
)
def test_reasoning_is_removed_and_unfinished_reasoning_is_nothing(text: str, thinking: bool, finished: str | None):
    assert finished_text(text, thinking) == finished
