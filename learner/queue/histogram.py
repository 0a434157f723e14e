"""Names of the ledger's fields that count groups by length and reward, as finish.lua has them.

finish.lua counts what leaves the queue. Gateways count here what they refuse for its age: it never enters the queue, and
would otherwise be missing from the comparison of what is trained with what is not.
"""

from __future__ import annotations

import math

_MOST_LENGTH, _MOST_REWARD = 2**52, 2**62


def histogram_fields(outcome: str, length: float, reward: float | None) -> tuple[str, ...]:
    """Returns the fields that count a group: two, or one if it has no reward.

    Args:
        outcome: what became of the group.
        length: mean number of generated tokens of its responses.
        reward: mean reward of its scored responses; None if there are none.
    """
    by_length = f"length:{outcome}:{_length_bucket(length)}"
    return (by_length,) if reward is None else (by_length, f"reward:{outcome}:{_reward_bucket(reward)}")


def _length_bucket(length: float) -> int:
    """Rounds up to a power of two."""
    return min(_MOST_LENGTH, 1 << max(0, math.ceil(length) - 1).bit_length())


def _reward_bucket(reward: float) -> str:
    """Lower end of the reward's interval: tenths in [-1, 1), octaves outside."""
    if -1 <= reward < 1:
        return f"{math.floor(reward * 10) / 10 + 0:.1f}"
    size = 1
    while size < _MOST_REWARD and (size * 2 <= reward or size * 2 < -reward):
        size *= 2
    return str(-2 * size if reward < 0 else size)
