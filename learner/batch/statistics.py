"""Statistics of a step's groups before training: reward, contrast, staleness, lengths. Importable without torch."""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from dataclasses import dataclass

from learner.batch.lengths import Lengths, lengths
from learner.batch.task_statistics import TaskStatistics, by_task, deviation
from leeway.v1 import rollout_pb2 as pb
from runtime.response_spans import spans_of


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics over all responses of a step's groups, informative or not.

    The reward of an unscored response is not read. Its tokens count as generated ones, though they carry no loss, like those
    of a group without contrast.

    Attributes:
        reward: mean reward of the scored responses; None if there is none.
        reward_sd: standard deviation of the scored responses' rewards over the whole step (divisor n); None if there is none.
        informative: share of groups whose scored responses' rewards are not all equal.
        groups_informative: number of these groups.
        all_right: share of groups with two scored responses or more whose rewards are all equal and above 0.
        all_wrong: share of groups with two scored responses or more whose rewards are all equal and 0 or below. The shares
            informative, all_right, all_wrong and that of unscored_groups add up to 1.
        staleness_mean: mean staleness in optimizer steps, weighted by generated tokens.
        staleness_max: staleness of the oldest generated token, in optimizer steps.
        staleness_tokens: number of generated tokens by staleness in optimizer steps.
        late: number of groups with a token that is older than the staleness that leases aim at.
        responses: number of responses.
        tokens: number of generated tokens.
        unscored: number of responses that nobody judged.
        unscored_groups: number of groups with fewer than two scored responses: nothing of them is trained.
        segments: mean number of segments of the scored responses; None if there is none.
        truncated: share of the responses that ended at the token limit.
        lengths: summaries of the responses' lengths, in generated tokens.
        tasks: rewards of each task.
    """

    reward: float | None
    reward_sd: float | None
    informative: float
    groups_informative: int
    all_right: float
    all_wrong: float
    staleness_mean: float
    staleness_max: int
    staleness_tokens: dict[int, int]
    late: int
    responses: int
    tokens: int
    unscored: int
    unscored_groups: int
    segments: float | None
    truncated: float
    lengths: Lengths
    tasks: dict[str, TaskStatistics]


def group_statistics(groups: Sequences[pb.Group], staleness: dict[int, int], max_staleness: int) -> GroupStatistics:
    """Computes the statistics of a step's groups.

    Args:
        groups: the groups.
        staleness: optimizer steps of every version in their spans.
        max_staleness: the staleness above which a group is late.
    """
    scored = [[response for response in group.responses if not response.unscored] for group in groups]
    rewards = [[response.reward for response in responses] for responses in scored]
    segments = [len(response.segments) or 1 for responses in scored for response in responses]
    responses = sum(len(group.responses) for group in groups)
    histogram: dict[int, int] = {}
    for span in (span for group in groups for response in group.responses for span in spans_of(response)):
        age = staleness[span.version]
        histogram[age] = histogram.get(age, 0) + span.end - span.start
    tokens = sum(histogram.values())
    informative = sum(len(set(own)) > 1 for own in rewards)
    equal = [own[0] for own in rewards if len(own) > 1 and len(set(own)) == 1]
    cut = sum(one.finish_reason == pb.FINISH_REASON_LENGTH for group in groups for one in group.responses)
    return GroupStatistics(
        reward=sum(map(sum, rewards)) / len(segments) if segments else None,
        reward_sd=deviation([reward for own in rewards for reward in own]),
        informative=informative / len(groups),
        groups_informative=informative,
        all_right=sum(reward > 0 for reward in equal) / len(groups),
        all_wrong=sum(reward <= 0 for reward in equal) / len(groups),
        staleness_mean=sum(age * count for age, count in histogram.items()) / max(1, tokens),
        staleness_max=max(histogram, default=0),
        staleness_tokens=histogram,
        late=sum(_oldest(group, staleness) > max_staleness for group in groups),
        responses=responses,
        tokens=tokens,
        unscored=responses - len(segments),
        unscored_groups=sum(len(own) < 2 for own in rewards),
        segments=sum(segments) / len(segments) if segments else None,
        truncated=cut / max(1, responses),
        lengths=lengths(groups),
        tasks=by_task(groups),
    )


def _oldest(group: pb.Group, staleness: dict[int, int]) -> int:
    """Staleness of a group's oldest token."""
    return max((staleness[span.version] for response in group.responses for span in spans_of(response)), default=0)
