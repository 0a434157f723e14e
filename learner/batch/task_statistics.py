"""Rewards of a step's groups by task and by part of the reward, for a bounded number of names. Importable without torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from leeway.v1 import rollout_pb2 as pb

MOST_NAMES = 32  # tasks, and parts of a task's reward: fleets choose these names
OTHER = "other"


@dataclass(frozen=True)
class TaskStatistics:
    """What a step's groups of one task earned.

    Attributes:
        groups: number of groups.
        reward: mean reward of the scored responses; None if there is none.
        reward_sd: standard deviation of these rewards (divisor n); None if there is none.
        informative: share of groups whose scored responses' rewards are not all equal.
        parts: part of the reward -> mean over the scored responses that have it.
    """

    groups: int
    reward: float | None
    reward_sd: float | None
    informative: float
    parts: dict[str, float]


def by_task(groups: Sequence[pb.Group]) -> dict[str, TaskStatistics]:
    """Computes the statistics of each task, by name; those of all but the 32 with the most groups together as "other"."""
    kept = _most_frequent(group.task for group in groups)
    sorted_out: dict[str, list[pb.Group]] = {}
    for group in groups:
        sorted_out.setdefault(group.task if group.task in kept else OTHER, []).append(group)
    return {task: _statistics(own) for task, own in sorted(sorted_out.items())}


def deviation(rewards: Sequence[float]) -> float | None:
    """Computes the standard deviation of rewards, with divisor n; None if there is none."""
    if not rewards:
        return None
    mean = sum(rewards) / len(rewards)
    return math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))


def _statistics(groups: Sequence[pb.Group]) -> TaskStatistics:
    scored = [[response for response in group.responses if not response.unscored] for group in groups]
    rewards = [response.reward for responses in scored for response in responses]
    informative = sum(len({response.reward for response in responses}) > 1 for responses in scored)
    parts = [dict(response.reward_parts) for responses in scored for response in responses if response.reward_parts]
    return TaskStatistics(
        len(groups),
        sum(rewards) / len(rewards) if rewards else None,
        deviation(rewards),
        informative / len(groups),
        _part_means(parts),
    )


def _part_means(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    kept = _most_frequent(name for one in parts for name in one)
    values: dict[str, list[float]] = {}
    for one in parts:
        for name, value in one.items():
            values.setdefault(name if name in kept else OTHER, []).append(value)
    return {name: sum(own) / len(own) for name, own in sorted(values.items())}


def _most_frequent(names: Iterable[str]) -> Collection[str]:
    """Returns the most frequent names, among equals the first by alphabet, so that all ranks choose alike."""
    counts = Counter(names)
    if len(counts) <= MOST_NAMES:
        return counts
    return set(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_NAMES])
