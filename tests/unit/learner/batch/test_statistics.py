"""Statistics of groups, worked by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from learner.batch.statistics import group_statistics
from leeway.v1 import rollout_pb2 as pb


def group(rewards: Sequence[float], spans: list[tuple[int, int, int]]) -> pb.Group:
    """A group of one response for each reward; ``spans``: (version, start, end) in every response."""
    wire = [pb.Span(version=version, start=start, end=end) for version, start, end in spans]
    return pb.Group(responses=[pb.Response(reward=reward, spans=wire) for reward in rewards])


def test_statistics_by_hand():
    statistics = group_statistics([group([1, 0], [(4, 0, 1), (5, 1, 3)]), group([1, 1], [(4, 0, 3)])], {4: 3, 5: 2}, 2)
    assert statistics.reward == 0.75
    assert statistics.informative == 0.5
    assert statistics.tokens == 12
    # two responses of (1 token at 3, 2 at 2), two of 3 tokens at 3
    assert statistics.staleness_mean == pytest.approx((2 * (3 + 4) + 2 * 9) / 12)
    assert statistics.staleness_max == 3
    assert statistics.staleness_tokens == {3: 8, 2: 4}
    assert statistics.late == 2


def test_shares_of_informative_right_and_wrong_groups_by_hand():
    """Right above 0, wrong at 0 and below; one scored response is neither. The four shares add up to 1."""
    spans = [(4, 0, 1)]
    groups = [
        group(rewards, spans) for rewards in ([1, 1], [0.2, 0.2], [0, 0], [-1, -1], [1, 0], [-1, 0], [1, 1], [1, 1])
    ]
    groups[6].responses[0].unscored = "reward_timeout"  # one is left
    groups[7].responses.add(reward=5.0, unscored="reward_timeout")  # not read
    found = group_statistics(groups, {4: 0}, 2)
    assert (found.all_right, found.all_wrong, found.informative, found.groups_informative) == (3 / 8, 2 / 8, 2 / 8, 2)
    assert found.all_right + found.all_wrong + found.informative + found.unscored_groups / 8 == 1
    rewards = [1, 1, 0.2, 0.2, 0, 0, -1, -1, 1, 0, -1, 0, 1, 1, 1]
    assert found.reward_sd == pytest.approx(np.std(rewards))


def test_truncated_is_the_share_of_responses_that_ended_at_the_limit():
    one, other = group([1, 0], [(4, 0, 1)]), group([1, 0], [(4, 0, 1)])
    one.responses[0].finish_reason = pb.FINISH_REASON_LENGTH
    other.responses[0].finish_reason = pb.FINISH_REASON_STOP
    assert group_statistics([one, other], {4: 0}, 2).truncated == 1 / 4


def test_a_group_is_late_by_its_oldest_token():
    groups = [group([1, 0], [(4, 0, 3), (5, 3, 4)]), group([1, 0], [(5, 0, 1)])]
    assert [group_statistics(groups, {4: 9, 5: 2}, bound).late for bound in (1, 2, 8, 9)] == [2, 1, 1, 0]


def test_segments_and_unscored_responses_by_hand():
    """Three scored responses, of 1, 1 and 2 segments; an unscored one of 3 tokens, and one without any."""
    first, second = group([1, 0, 5], [(4, 0, 1)]), group([2, 7], [(5, 0, 1)])
    first.responses[2].unscored = "reward_timeout"
    first.responses[2].spans[0].end = 3
    parts = [pb.Segment(spans=[pb.Span(version=v, start=0, end=2)]) for v in (4, 5)]
    second.responses[0].CopyFrom(pb.Response(reward=2, segments=parts))
    second.responses[1].CopyFrom(pb.Response(reward=7, unscored="agent_crashed"))
    found = group_statistics([first, second], {4: 3, 5: 0}, 2)
    assert found.reward == 1.0  # of 1, 0 and 2
    assert found.informative == 0.5
    assert (found.responses, found.unscored, found.unscored_groups) == (5, 2, 1)
    assert found.segments == pytest.approx(4 / 3)
    assert (found.tokens, found.staleness_tokens, found.late) == (9, {3: 7, 0: 2}, 2)


def test_without_a_scored_response_there_is_no_reward():
    one = group([1, 0], [(4, 0, 2)])
    for response in one.responses:
        response.unscored = "no_judge"
    found = group_statistics([one], {4: 3}, 2)
    assert (found.reward, found.segments, found.informative) == (None, None, 0.0)
    assert (found.unscored, found.unscored_groups, found.tokens, found.staleness_mean) == (2, 1, 4, 3.0)
    empty = group_statistics([pb.Group(responses=[pb.Response(unscored="no_judge")])], {}, 2)
    assert (empty.tokens, empty.staleness_mean, empty.staleness_max, empty.late) == (0, 0.0, 0, 0)
