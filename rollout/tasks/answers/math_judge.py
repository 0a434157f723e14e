"""The judge of mathematics: the final answer of a response against the reference."""

from __future__ import annotations

import re

from rollout.tasks.answers.boxes import find_boxes
from rollout.tasks.answers.characters import plain_characters
from rollout.tasks.answers.equality import equal_answers
from rollout.tasks.answers.final_answer import final_answers
from rollout.tasks.answers.finished import finished_text
from rollout.tasks.answers.formula import bare_formula
from rollout.tasks.answers.numbers import equal_numbers, find_numbers, merge_digit_groups, read_number

_FORMULA = re.compile(r"\$\$(.{1,2000}?)\$\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,500}?)\\\)|\$([^$\n]{1,500}?)\$", re.DOTALL)
_SUBTRACTED = re.compile(r"[\d)]-\s?$")
_OR = re.compile(r"\W{0,3}\s*or\s*\W{0,3}")
_LONGEST_TAIL = 20_000  # characters at the end of a response among which an answer that is not marked is looked for


def is_right(reference: str, response: str, thinking: bool = False) -> bool:
    """Whether the final answer of a response means the same as the reference.

    Reasoning is not looked at, and a response whose reasoning is not finished is not right. Where nothing marks an answer,
    the last number counts, or the last formula where the reference is no number.

    Args:
        reference: the right answer: a number, a formula, a list or a word, perhaps in a box.
        response: the response.
        thinking: whether the prompt has opened the reasoning already.

    Raises:
        RewardError: the answer is too large to be compared.
    """
    text = finished_text(response, thinking)
    if text is None or not text.strip():
        return False
    gold = _reference(reference)
    text = plain_characters(text.strip())
    answers = final_answers(text)
    if answers is None:
        return _unmarked(gold, text[-_LONGEST_TAIL:])
    if not answers:
        return False
    loose = not find_boxes(text) and "####" not in text and "<answer>" not in text
    return equal_answers(gold, answers[0] if len(answers) == 1 else ", ".join(answers), loose)


def _reference(reference: str) -> str:
    boxes = find_boxes(reference)
    if boxes and boxes[-1].content:
        return boxes[-1].content
    return reference.rpartition("####")[2].strip()


def _unmarked(gold: str, text: str) -> bool:
    number = read_number(bare_formula(gold))
    if number is None:
        formulas = [next(filter(None, found.groups())) for found in _FORMULA.finditer(text)]
        return equal_answers(gold, formulas[-1] if formulas else text.splitlines()[-1])
    text = merge_digit_groups(text)
    found = find_numbers(text)
    if not found:
        return False
    if _SUBTRACTED.search(text[: found[-1][0]]):  # 20-2 is no 2
        return False
    # "17 or 18" at the end names no answer.
    hedged = len(found) > 1 and _OR.fullmatch(text[found[-2][1] : found[-1][0]]) is not None
    ends = [read_number(text[begin:end]) for begin, end in found[-2 if hedged else -1 :]]
    return all(one is not None and equal_numbers(number, one) for one in ends)
