"""The reward choice."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.rewards.choice import Choice, named_choice
from rollout.tasks.reward_error import RewardError
from tests.unit.rollout.rewards.judging import asked, value

TEXTS = {"A": "Paris", "B": "Paris, Texas", "C": "London", "D": "Rome"}
LETTERS = dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("**B**", "B"), ("[B]", "B"), (" B)\n", "B"),
        ("The answer is B", "B"), ("The answer is (B).", "B"), ("The correct answer is: **B**", "B"),
        ("Answer: B", "B"), ("answer: option B", "B"), ("The answer is B, because A is wrong.", "B"),
        ("A is tempting. The answer is B.", "B"), ("The answer is A. No: the answer is B.", "B"),
        ("So it is (B)", "B"), ("I choose option B here.", "B"), (r"\boxed{B}", "B"), (r"\boxed{\text{(B)}}", "B"),
        ("B) something\n", "B"), ("A\n\nThe answer is B", "B"),
        ("", ""), ("The answer is A or B.", ""), ("(A) or (B)", ""), ("I do not know", ""), ("A dog. I am lost.", ""),
        (r"\boxed{A} \boxed{}", ""), ("Answer: Because", ""), ("It is either A) or C)", ""),
    ],
)  # fmt: skip
def test_a_letter_is_named(text: str, letter: str):
    assert named_choice(text, LETTERS) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Paris", "A"), ("paris.", "A"), ("It is Paris, Texas", "B"), ("The capital is London.", "C"),
        ("London or Rome", ""), ("Londoners know", ""), ("London? No.\nIt is Rome", "D"), ("E", ""), ("The answer is C", "C"),
    ],
)  # fmt: skip
def test_the_text_of_a_choice_is_named(text: str, letter: str):
    assert named_choice(text, TEXTS) == letter


@pytest.mark.parametrize("answer", ["C", "c", "(C)", "London", 2])
@pytest.mark.parametrize(
    "column",
    [list(TEXTS.values()), TEXTS, {"label": list(TEXTS), "text": list(TEXTS.values())}],
)
def test_the_answer_is_a_letter_a_text_or_a_number(answer: Any, column: Any):
    reward = Choice(choices="choices")
    assert reward.value(asked("The answer is C", answer, {"choices": column})) == 1.0
    assert reward.value(asked("It is London", answer, {"choices": column})) == 1.0
    assert reward.value(asked("D", answer, {"choices": column})) == 0.0
    assert reward.value(asked("<think>C", answer, {"choices": column})) == 0.0


def test_numbers_may_begin_with_one():
    assert value("choice", "C", 3, {"first": 1}) == 1.0


@pytest.mark.parametrize(
    ("answer", "row"), [("F", {"choices": list("abcd")}), ("A", {}), (9, {"choices": list("abcd")})]
)
def test_what_does_not_fit_is_unscored(answer: Any, row: dict[str, Any]):
    with pytest.raises(RewardError) as error:
        Choice(choices="choices").value(asked("A", answer, row))
    assert error.value.reason == "reward_error"
