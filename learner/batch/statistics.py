"""Statistics of a step's groups before training: reward, contrast, staleness. Importable without torch."""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from dataclasses import dataclass

from leeway.v1 import rollout_pb2 as pb


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics over all responses of a step's groups, informative or not.

    Attributes:
        reward: mean reward of the responses.
        informative: share of groups whose rewards are not all equal.
        staleness_mean: mean staleness in optimizer steps, weighted by generated tokens.
        staleness_max: staleness of the oldest generated token, in optimizer steps.
        staleness_tokens: number of generated tokens by staleness in optimizer steps.
        late: number of groups with a token that is older than the staleness that leases aim at.
        responses: number of responses.
        tokens: number of generated tokens.
    """

    reward: float
    informative: float
    staleness_mean: float
    staleness_max: int
    staleness_tokens: dict[int, int]
    late: int
    responses: int
    tokens: int


def group_statistics(groups: Sequences[pb.Group], staleness: dict[int, int], max_staleness: int) -> GroupStatistics:
    """Computes the statistics of a step's groups.

    Args:
        groups: the groups.
        staleness: optimizer steps of every version in their spans.
        max_staleness: the staleness above which a group is late.
    """
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
        late=sum(_oldest(group, staleness) > max_staleness for group in groups),
        responses=len(rewards),
        tokens=tokens,
    )


def _oldest(group: pb.Group, staleness: dict[int, int]) -> int:
    """Staleness of a group's oldest token."""
    return max(staleness[span.version] for response in group.responses for span in response.spans)
