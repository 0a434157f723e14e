"""Rules by which a response gets its advantage and its weight in the loss of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Advantage = Literal["mean", "std", "std_unbiased", "leave_one_out"]
Mean = Literal["response", "sum", "group", "batch"]
Keep = Literal["effective", "informative", "all"]


@dataclass(frozen=True)
class Weighting:
    """Rules for advantages, weights, and the choice of responses that are trained on.

    Every denominator counts *all* prompts of the step and all their responses, also those that contribute nothing and are
    left out of the forward pass. What the step's prompts are is decided where its groups are collected: with learner.refill
    only those that something is trained of (learner.batch.contrast), so that a step does not shrink while more and more
    prompts lose their contrast; without it all that were taken, so that a step of few informative groups is a small step.
    G responses in a group, P prompts in the step, m loss tokens in a response, over all its segments.

    Unscored responses are nowhere: G counts the scored ones, m is theirs, and the mean and the deviation of a group's rewards
    are over them. A group with fewer than two of them gives no sequences, whatever ``keep`` says, but still counts in P.

    Attributes:
        advantage: mean: r - mean(r); std: that divided by the group's standard deviation of divisor G; std_unbiased: by the
            one of divisor G - 1; leave_one_out: r - mean of the other responses' rewards.
        mean: how a response's weight is normalised, and so what the objective must do with its tokens:
            response: 1 / (G P); the objective takes the mean over the response's tokens (or one term per response);
            sum: 1 / (G P); the objective sums over tokens;
            group: 1 / (P sum of the group's m); the objective sums over tokens: the mean over a group's tokens;
            batch: 1 / (sum of all m); the objective sums over tokens: the mean over the step's tokens.
        keep: which responses are trained on: effective: those with A != 0; informative: all responses of groups whose rewards
            differ (for a term that does not vanish with A); all: also groups without contrast (for KL and entropy terms).
    """

    advantage: Advantage = "mean"
    mean: Mean = "response"
    keep: Keep = "effective"


DEFAULT = Weighting()
