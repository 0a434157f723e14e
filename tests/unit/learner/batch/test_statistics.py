"""Statistics of groups, worked by hand."""

import pytest

from learner.batch.statistics import group_statistics
from leeway.v1 import rollout_pb2 as pb


def group(rewards: list[float], spans: list[tuple[int, int, int]]) -> pb.Group:
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


def test_a_group_is_late_by_its_oldest_token():
    groups = [group([1, 0], [(4, 0, 3), (5, 3, 4)]), group([1, 0], [(5, 0, 1)])]
    assert [group_statistics(groups, {4: 9, 5: 2}, bound).late for bound in (1, 2, 8, 9)] == [2, 1, 1, 0]
