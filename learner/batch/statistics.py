"""Statistics of a step's groups, computed without torch."""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from dataclasses import dataclass

from leeway.v1 import rollout_pb2 as pb


@dataclass(frozen=True)
class GroupStatistics:
    """What a step's groups say before training: means over all responses taken, informative or not."""

    reward: float
    informative: float  # share of groups whose rewards differ
    staleness_mean: float  # optimizer steps, weighted by generated tokens
    staleness_max: int
    staleness_tokens: dict[int, int]  # generated tokens of each age
    responses: int
    tokens: int  # generated tokens


def describe(groups: Sequences[pb.Group], staleness: dict[int, int]) -> GroupStatistics:
    """Statistics of taken groups; ``staleness`` maps each version in their spans to optimizer steps."""
    rewards = [response.reward for group in groups for response in group.responses]
    ages: list[tuple[int, int]] = [
        (staleness[span.version], span.end - span.start)
        for group in groups
        for response in group.responses
        for span in response.spans
    ]
    tokens = sum(count for _, count in ages)
    histogram: dict[int, int] = {}
    for age, count in ages:
        histogram[age] = histogram.get(age, 0) + count
    mixed = sum(len({response.reward for response in group.responses}) > 1 for group in groups)
    return GroupStatistics(
        reward=sum(rewards) / len(rewards),
        informative=mixed / len(groups),
        staleness_mean=sum(age * count for age, count in histogram.items()) / tokens,
        staleness_max=max(histogram),
        staleness_tokens=histogram,
        responses=len(rewards),
        tokens=tokens,
    )
