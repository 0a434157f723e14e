"""The reward length: a penalty for long responses, linear between two lengths."""

from __future__ import annotations

from rollout.rewards.reward_function import RewardFunction, RewardInput
from rollout.tasks.reward_error import RewardError


class Length(RewardFunction):
    """0 up to ``from_tokens``, then linearly down to -1 at ``to_tokens``, and -1 beyond.

    With to_tokens = L_max and from_tokens = L_max - L_cache it is the soft overlong punishment of DAPO (Yu et al. 2025, arXiv
    2503.14476, equation 13).

    Args:
        from_tokens: generated tokens that cost nothing, the end token included.
        to_tokens: generated tokens from which on the penalty is whole.
        truncated: whether a response that a limit cut off gets -1 whatever its length.
    """

    def __init__(self, from_tokens: int, to_tokens: int, truncated: bool = False) -> None:
        if not 0 <= from_tokens < to_tokens:
            raise ValueError(
                f"from_tokens = {from_tokens}, to_tokens = {to_tokens}: expected 0 <= from_tokens < to_tokens"
            )
        self._from = from_tokens
        self._to = to_tokens
        self._truncated = truncated

    def value(self, asked: RewardInput) -> float:
        response = asked.response
        if self._truncated and response.finish == "length":
            return -1.0
        if response.tokens is None:
            raise RewardError("reward_error", "the number of generated tokens is not known here")
        over = (response.tokens - self._from) / (self._to - self._from)
        return -min(max(over, 0.0), 1.0)
