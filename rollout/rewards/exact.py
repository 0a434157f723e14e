"""The reward exact: the response is the answer, character by character."""

from __future__ import annotations

from rollout.rewards.reward_function import RewardFunction, RewardInput


class Exact(RewardFunction):
    """1 where the response, its finished reasoning removed, is the answer, else 0.

    Args:
        strip: whether spaces and line breaks around both are ignored.
        casefold: whether upper and lower case are the same.
    """

    def __init__(self, strip: bool = True, casefold: bool = False) -> None:
        self._strip = strip
        self._casefold = casefold

    def value(self, asked: RewardInput) -> float:
        text = asked.finished
        return float(text is not None and any(self._form(text) == self._form(one) for one in asked.references()))

    def _form(self, text: str) -> str:
        text = text.strip() if self._strip else text
        return text.casefold() if self._casefold else text
