"""Tests that groups of a version that the learner cannot use expire: they are counted, finished and not handed out."""

from __future__ import annotations

from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import valid_group
from tests.service.queueing import begun, feed, ledger


def _into_segments(response: pb.Response, version: int) -> None:
    """Makes the response one of two segments, the second of which is of ``version``."""
    parts = [pb.Segment(context_tokens=response.tokens, tokens=response.tokens, spans=response.spans) for _ in range(2)]
    parts[1].spans[0].version = version
    response.CopyFrom(pb.Response(segments=parts, reward=response.reward))


async def test_groups_of_an_unusable_version_expire(config, gateway_queue, open_learner):
    learner = begun(open_learner, versions=[0, 1, 2, 3])
    asked: list[int] = []

    def usable(version: int) -> bool:
        asked.append(version)
        return version != 2

    learner.require(usable)
    stale, gone, mixed, good = valid_group(0), valid_group(2), valid_group(3), valid_group(3)
    mixed.responses[1].spans[0].version = 2
    cut, unscored = valid_group(3), valid_group(3)
    _into_segments(cut.responses[1], version=2)
    unscored.responses[1].spans[0].version, unscored.responses[1].unscored = 2, "reward_timeout"
    await feed(gateway_queue, [stale, gone, mixed, cut, good, unscored])
    trainable = [good.group_id, unscored.group_id]  # what carries no loss needs no version
    assert [one.ref.group_id for one in learner.take(5, step=3, expire_after=2)] == trainable
    assert (ledger(config).expired, learner.unusable) == (4, 3)
    assert 0 not in asked  # too stale anyway: nothing is read to find out
    assert learner.waiting() == 0
    assert learner.fresh([0, 1, 2, 3, 9], 1) == {2, 3}
