"""The reward numeric: the response's last number is the answer."""

from __future__ import annotations

from fractions import Fraction

from rollout.rewards.regex import compiled, last_match
from rollout.rewards.reward_function import RewardFunction, RewardInput
from rollout.tasks.answers.characters import plain_characters
from rollout.tasks.answers.numbers import NumberText, equal_numbers, find_numbers, merge_digit_groups, read_number
from rollout.tasks.reward_error import RewardError


class Numeric(RewardFunction):
    """1 where the last number of the response is the answer, else 0.

    Thousands separators, fractions, percents, currencies, powers of ten and units are understood.

    Args:
        tolerance: largest difference that counts as equal.
        relative: largest difference as a share of the answer.
        pattern: regular expression whose last match holds the number, in its first group if it has one; empty: the last
            number of the text.
    """

    def __init__(self, tolerance: float = 0.0, relative: float = 0.0, pattern: str = "") -> None:
        for name, value in (("tolerance", tolerance), ("relative", relative)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} = {value}: expected a finite number of at least 0")
        self._tolerance = Fraction(tolerance)
        self._relative = Fraction(relative)
        self._pattern = compiled(pattern) if pattern else None

    def value(self, asked: RewardInput) -> float:
        golds = [self._gold(one) for one in asked.references()]
        text = asked.finished
        number = None if text is None else self._last(plain_characters(text))
        return float(number is not None and any(self._equal(gold, number) for gold in golds))

    def _last(self, text: str) -> NumberText | None:
        if self._pattern is not None:
            last = last_match(self._pattern, text)
            if last is None:
                return None
            text = last[1] or "" if self._pattern.groups else last[0]
        whole = read_number(text)
        if whole is not None:
            return whole
        text = merge_digit_groups(text)
        found = find_numbers(text)
        return read_number(text[slice(*found[-1])]) if found else None

    def _equal(self, gold: NumberText, number: NumberText) -> bool:
        if equal_numbers(gold, number):
            return True
        room = max(self._tolerance, self._relative * abs(gold.value))
        return bool(room) and gold.percent == number.percent and abs(gold.value - number.value) <= room

    def _gold(self, reference: str) -> NumberText:
        number = read_number(reference)
        if number is None:
            raise RewardError("reward_error", f"the prompt's answer {reference!r:.80} is no number")
        return number
