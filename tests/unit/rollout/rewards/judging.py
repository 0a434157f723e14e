"""Responses for tests of rewards."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from rollout.rewards.registry import RewardPart, make_reward
from rollout.rewards.reward_function import RewardInput, RewardPlace
from rollout.tasks import Prompt
from rollout.tasks.judged_response import JudgedResponse


def asked(text: str, answer: Any = "18", row: dict[str, Any] | None = None, **facts: Any) -> RewardInput:
    """A response to a prompt with this answer."""
    prompt = Prompt("p:0", "How many?", {"answer": answer, "row": row or {}})
    return RewardInput(prompt, answer, JudgedResponse(text, **facts))


def value(name: str, text: str, answer: Any = "18", options: dict[str, Any] | None = None, **facts: Any) -> Any:
    """What a reward of the registry gives a response."""
    reward = make_reward(RewardPart(name, options=options or {}))
    reward.prepare(RewardPlace(name))
    found = reward.value(asked(text, answer, **facts))
    return asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found


async def _awaited(found: Any) -> Any:
    return await found
