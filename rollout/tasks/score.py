"""The score of one response: what a task may return as a reward, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from rollout.tasks.base import TaskError


@dataclass(frozen=True)
class Score:
    """The reward of one response, and its named parts where the task gives them."""

    reward: float
    parts: dict[str, float] = field(default_factory=dict)


def as_score(reward: Any) -> Score:
    """Converts what a task returned; named parts add up to the reward.

    A number is a bool, an int, a float or any other real number, and the scalar of numpy for each. Arrays and tensors are
    refused, even with one element: it would hide that a task scores a batch by mistake.

    Raises:
        TaskError: it is neither a finite number nor a mapping from names to finite numbers, at least one.
    """
    if not isinstance(reward, Mapping):
        return Score(_finite(reward, "reward"))
    if not reward or not all(isinstance(name, str) for name in reward):
        raise TaskError(f"reward = {reward!r}: expected a number, or a dict of at least one named number")
    parts = {name: _finite(part, f"reward[{name!r}]") for name, part in reward.items()}
    return Score(_finite(sum(parts.values()), "the sum of the reward's parts"), parts)


def _finite(number: Any, what: str) -> float:
    if not isinstance(number, Real) and not _is_numpy_bool(number):
        raise TaskError(
            f"{what} = {number!r}: expected a number or a dict of named numbers, found {type(number).__name__}; "
            "convert it, with .item() for an array or tensor of one element"
        )
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise TaskError(f"{what} = {value}: expected a finite number; return a number for every response, or raise")
    return value


def _is_numpy_bool(number: Any) -> bool:
    # By its name: tasks run in virtualenvs of their own, where numpy need not be. Its other numbers say that they are real.
    return type(number).__module__ == "numpy" and type(number).__name__ in ("bool", "bool_")
