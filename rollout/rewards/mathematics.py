"""The reward math: the final answer means the same as the reference, by math-verify."""

from __future__ import annotations

import importlib.util

from rollout.rewards.reward_function import RewardFunction, RewardInput
from rollout.tasks.answers.math_judge import is_right


class Mathematics(RewardFunction):
    r"""1 where the final answer (the last \boxed{}, "#### ...", "The answer is ...", else the last number) is right, else 0.

    Numbers, units, fractions, lists, intervals, matrices and formulas are compared by what they mean. An answer that is too
    large to be compared is unscored, ``unjudgeable``.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise LookupError("the package math-verify is not there: install it for the interpreter that judges")

    def value(self, asked: RewardInput) -> float:
        response = asked.response
        return float(any(is_right(one, response.text, response.thinking) for one in asked.references()))
