"""The reward math on every hand-made case, and on hostile texts without end."""

from __future__ import annotations

from collections import Counter

import pytest

from rollout.tasks import Prompt, load_task
from rollout.tasks.answers.math_judge import is_right
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError
from tests.unit.rollout.rewards.judging import value
from tests.unit.rollout.rewards.math_cases import CASES, MathCase


def verdict(case: MathCase) -> str:
    try:
        return "right" if is_right(case.answer, case.response, case.thinking) else "wrong"
    except RewardError as error:
        return {"unjudgeable": "unscored"}[error.reason]


@pytest.mark.parametrize("kind", sorted({case.kind for case in CASES}))
def test_the_judge_agrees_with_every_hand_made_case(kind: str):
    wrong = [
        (case.response[:80], case.answer[:40], case.expected, found)
        for case in CASES
        if case.kind == kind and (found := verdict(case)) != case.expected
    ]
    assert wrong == []


def test_there_are_cases_of_every_verdict_and_none_twice():
    verdicts = Counter(case.expected for case in CASES)
    assert min(verdicts["right"], verdicts["wrong"]) > 100
    assert verdicts["unscored"] >= 10
    assert len({(case.response, case.answer, case.thinking) for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "unit",
    ["answer is ", "$", "{", "}", "\\boxed{", "\\boxed ", "1,", "1 000 ", "-", "<think>", "</think>", "<answer>", "#### ",
     "\\frac{1}{", "\\text{", "\\left(", "\\[", "$$", "A: ", "10^", "\\boxed{1} or ", "\u00b2", "9", "\n"],
)  # fmt: skip
def test_long_hostile_texts_are_read_in_one_pass(unit: str):
    # Twenty thousand times: what is not linear would run into the suite's time limit.
    for text in (unit * 20_000, unit * 20_000 + "\\boxed{18}", f"the answer is {unit * 20_000}"):
        assert verdict(MathCase("hostile", text, "18", "wrong")) in ("right", "wrong", "unscored")


def test_one_of_several_answers_is_enough_and_numbers_are_answers():
    assert value("math", r"\boxed{18}", [17, 18]) == 1.0
    assert value("math", r"\boxed{19}", [17, 18]) == 0.0
    assert value("math", r"\boxed{18}", 18) == 1.0
    assert value("math", r"\boxed{0.5}", 0.5) == 1.0


@pytest.mark.parametrize("answer", [None, {}, [], [None]])
def test_a_prompt_without_an_answer_is_unscored_and_not_wrong(answer: object):
    with pytest.raises(RewardError, match="expected a text or a number") as error:
        value("math", r"\boxed{18}", answer)
    assert error.value.reason == "reward_error"


def test_gsm8k_is_judged_by_the_same_code(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "q", "answer": "so\\n#### 1,234"}\n')
    task = load_task("gsm8k", 0, {"path": str(path)})
    prompt: Prompt = task.prompt(0)
    assert task.answer(prompt) == "1234"
    assert task.reward(prompt, r"\fbox{1\,234}") == 1.0
    assert task.reward(prompt, r"<think>\boxed{1234}") == 0.0
    assert task.judge(prompt, JudgedResponse(r"\boxed{1234}", thinking=True)) == 0.0
    assert task.judge(prompt, JudgedResponse(r"so</think>\boxed{1234}", thinking=True)) == 1.0
