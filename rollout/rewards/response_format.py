"""The reward format: the whole response has a certain form."""

from __future__ import annotations

from rollout.rewards.regex import compiled
from rollout.rewards.reward_function import RewardFunction, RewardInput

_SAID = r"(?:\s*(?!</?think>)\S)+\s*"  # some words, and no tag among them; read in one pass
_THINK_THEN_ANSWER = rf"\s*<think>{_SAID}</think>{_SAID}"
_OPEN = "<think>"


class ResponseFormat(RewardFunction):
    """1 where the whole response matches the pattern, else 0; after <think> where the prompt has opened the reasoning.

    Args:
        pattern: regular expression of Python for the whole response; default: <think>, some reasoning, </think>, an answer.
    """

    def __init__(self, pattern: str = _THINK_THEN_ANSWER) -> None:
        self._pattern = compiled(pattern)

    def value(self, asked: RewardInput) -> float:
        response = asked.response
        text = _OPEN + response.text if response.thinking else response.text
        return float(self._pattern.fullmatch(text) is not None)
