"""What a response counts for in the loss of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Advantage = Literal["mean", "std", "leave_one_out"]
Mean = Literal["response", "sum", "group", "batch"]
Keep = Literal["effective", "informative", "all"]


@dataclass(frozen=True)
class Weighting:
    """How advantages and weights are made from groups. Every denominator counts *all* prompts of the step and all their
    responses, also those that contribute nothing and are left out of the forward pass, so that a step of few informative
    groups is a small step. G responses in a group, P prompts in the step, m loss tokens of a response.

    Attributes:
        advantage: mean: r - mean(r); std: divided by the group's standard deviation; leave_one_out: the mean of the others.
        mean: what a response's weight divides by, and so what the objective must do with its tokens:
            response: 1 / (G P); the objective takes the mean over the response's tokens (or one term per response);
            sum: 1 / (G P); the objective sums over tokens;
            group: 1 / (P sum of the group's m); the objective sums over tokens: the mean over a group's tokens;
            batch: 1 / (sum of all m); the objective sums over tokens: the mean over the step's tokens.
        keep: which responses are trained on: effective: those with A != 0; informative: all of groups whose rewards
            differ (a term that does not vanish with A); all: also groups without contrast (KL, entropy).
    """

    advantage: Advantage = "mean"
    mean: Mean = "response"
    keep: Keep = "effective"


DEFAULT = Weighting()
