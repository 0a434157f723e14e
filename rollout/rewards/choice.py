"""The reward choice: the right one of several choices was named, by its letter or by its text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rollout.rewards.reward_function import RewardFunction, RewardInput
from rollout.tasks.answers.boxes import find_boxes
from rollout.tasks.answers.formula import bare_formula
from rollout.tasks.reward_error import RewardError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SAID = re.compile(
    r"(?i:\b(?:answer|choice|option)\b[^.\n]{0,60}?(?:\bis\b|[:=]))[\s*_`]*(?i:option|choice)?\s*\(?\[?([A-Z])(?![A-Za-z'])"
)
_NAMED = re.compile(
    r"\(([A-Z])\)|^[\s*_`]*([A-Z])(?=[).:]|[\s*_`]*$)|(?i:\b(?:option|choice))\s+([A-Z])\b", re.MULTILINE
)
_WHOLE = re.compile(r"[\s*_`(\[]*([A-Za-z])[\s*_`)\].:]*")


class Choice(RewardFunction):
    """1 where the response names the right choice, else 0: "B", "(B)", "The answer is B", a box with B, or the choice's text.

    The answer is a letter, the text of a choice, or its number.

    Args:
        choices: column of the prompt's row with the choices' texts, a list or a mapping from letters; empty: letters alone.
        letters: number of choices where no column has their texts.
        first: number of the first choice, for answers that are numbers.
    """

    def __init__(self, choices: str = "", letters: int = 26, first: int = 0) -> None:
        if not 2 <= letters <= len(_LETTERS):
            raise ValueError(f"letters = {letters}: expected 2 to {len(_LETTERS)}")
        self._choices = choices
        self._letters = letters
        self._first = first

    def value(self, asked: RewardInput) -> float:
        texts = self._texts(asked)
        right = self._right(asked.answer, texts)
        text = asked.finished
        return float(text is not None and named_choice(text, texts) == right)

    def _texts(self, asked: RewardInput) -> dict[str, str]:
        if not self._choices:
            return dict.fromkeys(_LETTERS[: self._letters], "")
        found = asked.row.get(self._choices)
        if isinstance(found, Mapping) and {"label", "text"} <= set(found):  # as ARC and CommonsenseQA store them
            found = dict(zip(found["label"], found["text"], strict=True))
        if isinstance(found, Mapping):
            return {str(letter).upper(): str(text) for letter, text in found.items()}
        if isinstance(found, Sequence) and not isinstance(found, str) and 2 <= len(found) <= len(_LETTERS):
            return {letter: str(text) for letter, text in zip(_LETTERS, found, strict=False)}
        raise RewardError(
            "reward_error", f"the prompt's row has no list of choices {self._choices!r}, found {found!r:.80}"
        )

    def _right(self, answer: Any, texts: Mapping[str, str]) -> str:
        if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer - self._first < len(texts):
            return list(texts)[answer - self._first]
        written = bare_formula(str(answer)).strip("()").strip()
        if written.upper() in texts:
            return written.upper()
        same = [letter for letter, text in texts.items() if text and _form(text) == _form(str(answer))]
        if len(same) != 1:
            raise RewardError("reward_error", f"the prompt's answer {answer!r:.80} is none of {', '.join(texts)}")
        return same[0]


def named_choice(text: str, texts: Mapping[str, str]) -> str:
    """Returns the letter of the choice that a response names; empty where it names none, or several.

    Args:
        text: the response, its reasoning removed.
        texts: the choices' texts by letter; empty texts are not looked for.
    """
    boxes = find_boxes(text)
    if boxes:
        text = bare_formula(boxes[-1].content or "")
    whole = _WHOLE.fullmatch(text)
    if whole is not None:
        return whole[1].upper() if whole[1].upper() in texts else ""
    said = [found for found in _SAID.finditer(text) if found[1] in texts]
    if said:
        return "" if _two(text[said[-1].end() :], said[-1][1], texts) else said[-1][1]
    named = [letter for found in _NAMED.finditer(text) if (letter := found[1] or found[2] or found[3]) in texts]
    if len(set(named)) == 1:
        return named[0]
    last = _form(text.strip().splitlines()[-1] if text.strip() else "")
    spoken = [letter for letter, one in texts.items() if one and _within(_form(one), last)]
    forms = {letter: _form(texts[letter]) for letter in spoken}
    # "Paris, France" is not also "Paris".
    longest = [one for one in spoken if not any(one != two and _within(forms[one], forms[two]) for two in spoken)]
    return longest[0] if len(longest) == 1 and not named else ""


def _two(rest: str, letter: str, texts: Mapping[str, str]) -> bool:
    other = re.match(r"\)?[\s*_`,]*(?:or|and|/)\s*\(?([A-Z])(?![A-Za-z'])", rest)
    return other is not None and other[1] in texts and other[1] != letter


def _within(needle: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", text) is not None


def _form(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .*_`\"'")
