"""The reward regex: a pattern is found, or what it finds is the answer."""

from __future__ import annotations

import collections
import re

from rollout.rewards.reward_function import RewardFunction, RewardInput


class Regex(RewardFunction):
    """1 where the pattern's last match has the answer in its first group, or where a pattern without a group matches; else 0.

    Args:
        pattern: regular expression of Python; "." does not match line breaks unless it begins with (?s).
        casefold: whether upper and lower case are the same.
        reasoning: whether the reasoning is searched too, finished or not.
    """

    def __init__(self, pattern: str, casefold: bool = False, reasoning: bool = False) -> None:
        self._pattern = compiled(pattern, casefold)
        self._casefold = casefold
        self._reasoning = reasoning

    def value(self, asked: RewardInput) -> float:
        text = asked.response.text if self._reasoning else asked.finished
        if text is None:
            return 0.0
        last = last_match(self._pattern, text)
        if last is None or not self._pattern.groups:
            return float(last is not None)
        return float(any(self._form(last[1] or "") == self._form(one) for one in asked.references()))

    def _form(self, text: str) -> str:
        return text.strip().casefold() if self._casefold else text.strip()


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Returns the last match of a pattern; None where there is none."""
    last = collections.deque(pattern.finditer(text), maxlen=1)
    return last[0] if last else None


def compiled(pattern: str, casefold: bool = False, option: str = "pattern") -> re.Pattern[str]:
    """Compiles the pattern of an option. Raises ValueError, which names the option."""
    try:
        return re.compile(pattern, re.IGNORECASE if casefold else 0)
    except re.error as error:
        raise ValueError(f"{option} = {pattern!r}: {error}") from error
