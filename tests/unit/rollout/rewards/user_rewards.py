"""Rewards of a user's own, as tests need them; also imported by hosts."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from rollout.rewards.reward_function import RewardFunction, RewardInput

NOT_A_REWARD = 5


def shorter(response: str, answer: str, factor: float = 1.0) -> float:
    """The share of the response that the answer is."""
    return factor * len(answer) / max(1, len(response))


def everything(**given: Any) -> float:
    """How many things a reward can ask for."""
    return float(len(given))


def parts(response: str) -> dict[str, float]:
    """Named numbers."""
    return {"letters": float(sum(one.isalpha() for one in response)), "digits": float(sum(map(str.isdigit, response)))}


async def patient(response: str) -> float:
    """A coroutine."""
    await asyncio.sleep(0)
    return float(len(response))


def scripted(response: str) -> Any:
    """The response says what happens: "hang", "exit", "nan", "text", "none", "raise", "numbers", else 1."""
    match response:
        case "hang":
            time.sleep(3600)
        case "exit":
            os._exit(3)
        case "raise":
            raise ZeroDivisionError("scripted")
        case "memory":
            kept = []
            while True:
                kept.append(bytearray(1 << 24))
                time.sleep(0.01)
    values = {"nan": float("nan"), "text": "1.0", "none": None, "numbers": [1.0], "infinite": float("inf")}
    return values.get(response, 1.0)


class Constant(RewardFunction):
    """One number for every response.

    Args:
        number: the reward.
    """

    def __init__(self, number: float) -> None:
        self._number = number

    def value(self, asked: RewardInput) -> float:
        return self._number
