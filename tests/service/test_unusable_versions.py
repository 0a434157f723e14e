"""Tests that groups of a version that the learner cannot use expire: they are counted, finished and not handed out."""

from __future__ import annotations

from tests.service.fleet import valid_group
from tests.service.queueing import begun, feed, ledger


async def test_groups_of_an_unusable_version_expire(config, gateway_queue, open_learner):
    learner = begun(open_learner, versions=[0, 1, 2, 3])
    asked: list[int] = []

    def usable(version: int) -> bool:
        asked.append(version)
        return version != 2

    learner.require(usable)
    stale, gone, mixed, good = valid_group(0), valid_group(2), valid_group(3), valid_group(3)
    mixed.responses[1].spans[0].version = 2
    await feed(gateway_queue, [stale, gone, mixed, good])
    assert [one.ref.group_id for one in learner.take(5, step=3, expire_after=2)] == [good.group_id]
    assert (ledger(config).expired, learner.unusable) == (3, 2)
    assert 0 not in asked  # too stale anyway: nothing is read to find out
    assert learner.waiting() == 0
    assert learner.fresh([0, 1, 2, 3, 9], 1) == {2, 3}
