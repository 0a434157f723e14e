"""Lengths of a step's responses, by the sign of their advantage and by why they ended. Importable without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leeway.v1 import rollout_pb2 as pb
from runtime.response_spans import spans_of

FINISHES = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH, "abort": pb.FINISH_REASON_ABORT}


@dataclass(frozen=True)
class LengthSummary:
    """Mean, median, 95th percentile and maximum of response lengths, in generated tokens.

    Percentiles are interpolated linearly between the two lengths beside them.
    """

    mean: float
    p50: float
    p95: float
    max: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> LengthSummary | None:
        """Summarises lengths; None if there is none."""
        if not lengths:
            return None
        p50, p95 = np.percentile(lengths, (50, 95)).tolist()
        return cls(sum(lengths) / len(lengths), p50, p95, max(lengths))


@dataclass(frozen=True)
class Lengths:
    """Summaries of the lengths of a step's responses. Those without a generated token are in none; None where there is none.

    Attributes:
        all: of all responses, also of those that nobody judged.
        positive: of scored responses whose reward is above the mean of their group's scored ones.
        negative: of scored responses whose reward is below it. A response of a group without contrast has no sign.
        by_finish: of the responses with each finish reason: "stop", "length" and "abort".
    """

    all: LengthSummary | None
    positive: LengthSummary | None
    negative: LengthSummary | None
    by_finish: dict[str, LengthSummary | None]


def generated_tokens(response: pb.Response) -> int:
    """Counts the tokens of a response that the policy generated, over all its segments."""
    return sum(span.end - span.start for span in spans_of(response))


def lengths(groups: Sequence[pb.Group]) -> Lengths:
    """Summarises the lengths of the responses of a step's groups, informative or not; token ids are not read."""
    found: dict[str, list[int]] = {"all": [], "positive": [], "negative": [], **{name: [] for name in FINISHES}}
    names = {number: name for name, number in FINISHES.items()}
    for group in groups:
        rewards = [response.reward for response in group.responses if not response.unscored]
        contrast = len(set(rewards)) > 1
        mean = sum(rewards) / len(rewards) if contrast else 0.0
        for response in group.responses:
            if not (tokens := generated_tokens(response)):
                continue
            found["all"].append(tokens)
            if response.finish_reason in names:
                found[names[response.finish_reason]].append(tokens)
            if contrast and not response.unscored and response.reward != mean:
                found["positive" if response.reward > mean else "negative"].append(tokens)
    made = {name: LengthSummary.of(values) for name, values in found.items()}
    by_finish = {name: made[name] for name in FINISHES}
    return Lengths(made["all"], made["positive"], made["negative"], by_finish)
