"""Groups that are replaced in their step: the capacity that they leave, and how the ledger counts them. Real Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from learner.batch.lengths import generated_tokens
from learner.config import AdmissionConfig, LearnerConfig, QueueConfig
from learner.gateway.lease_shares import LeaseShares
from learner.intake.batch_source import BatchSource
from learner.intake.step_groups import StepGroups
from learner.queue import FencedError, GatewayQueue, LearnerQueue
from learner.queue.keys import Keys
from tests.service.queueing import append, begun, client, feed, group_of_kind, ledger, wish

Open = Callable[[], LearnerQueue]
GROUPS = 4


def settings(queue: QueueConfig, **values: object) -> LearnerConfig:
    base = {
        "model": "m", "queue": queue.model_dump(mode="json"), "steps": 9, "metrics_dir": "x", "groups_per_step": GROUPS,
        "checkpoint": {"dir": "x"}, "publish": {"dir": "x"}, "max_staleness": 0,
    }  # fmt: skip
    return LearnerConfig.parse({**base, **values}, "test")


async def occupied(gateway: GatewayQueue) -> int:
    return sum((await gateway.leases.occupancy()).occupied.values())


async def test_a_strictly_on_policy_run_leases_what_replaces_groups_without_contrast(
    gateway_queue: GatewayQueue, open_learner: Open, config: QueueConfig
):
    """max_staleness = 0 leases one step's groups. All of them are in the learner's hands, and the step is not complete."""
    learner = begun(open_learner)
    rule = LeaseShares(AdmissionConfig(groups_per_step=GROUPS, max_staleness=0))
    collector = StepGroups(settings(config), learner, "effective")

    async def generate(*kinds: str) -> int:
        seen = await gateway_queue.leases.occupancy()
        lease_id = str(len(collector))
        granted = await gateway_queue.leases.grant(wish(lease_id, 99), rule.allowance("alpha", seen))
        groups = [append(group_of_kind(kind), lease_id=lease_id) for kind in kinds[:granted]]
        await gateway_queue.flush(groups, {}, [])
        return granted

    assert await generate("", "without_contrast", "unscored", "") == GROUPS
    assert collector.collect(0) is None
    assert collector.collect(0) is None  # the queue is empty
    assert await occupied(gateway_queue) == 2  # the two that count
    assert await generate("without_contrast", "") == 2
    assert collector.collect(0) is None
    assert collector.collect(0) is None
    assert await generate("") == 1
    assert collector.collect(0) == "full"
    groups, uncounted = collector.hand_over()
    assert (len(groups), uncounted) == (7, 3)
    assert await occupied(gateway_queue) == 4
    learner.report(1, 0, uncommitted=7)
    seen = await gateway_queue.leases.occupancy()
    assert sum(seen.occupied.values()) == 0
    assert seen.consumed == 5  # 4 + 0.2 * (7 - 4) = 4.6, rounded up
    assert rule.allowance("alpha", seen).bound == 5
    assert ledger(config).in_flight == 7
    assert learner.commit(1, [ref for ref, _ in groups]) == 7
    after = ledger(config)
    assert (after.trained, after.without_contrast, after.unscored, after.in_flight) == (7, 2, 1, 0)
    assert await occupied(gateway_queue) == 0


async def test_what_a_step_consumes_is_known_to_the_next_learner(
    gateway_queue: GatewayQueue, open_learner: Open, config: QueueConfig
):
    learner = begun(open_learner)
    assert learner.consumed == 0
    learner.consumes(11)
    learner.report(1, 0, uncommitted=0)
    assert (await gateway_queue.leases.occupancy()).consumed == 11
    again = open_learner()
    again.begin(1, [])
    assert again.consumed == 11
    assert (await gateway_queue.leases.occupancy()).consumed == 11


async def test_groups_that_were_set_apart_and_not_committed_are_trained_by_the_next_learner_once(
    gateway_queue: GatewayQueue, open_learner: Open, config: QueueConfig
):
    """A learner dies while it collects: its groups, counted or not, are the first of the next one, and occupy again."""
    learner = begun(open_learner)
    kinds = ("without_contrast", "", "unscored", "", "", "without_contrast", "", "")
    await feed(gateway_queue, [group_of_kind(kind) for kind in kinds[:4]])
    first = StepGroups(settings(config), learner, "effective")
    assert first.collect(0) is None
    assert first.collect(0) is None
    assert await occupied(gateway_queue) == 2
    await feed(gateway_queue, [group_of_kind(kind) for kind in kinds[4:]])
    again = open_learner()
    again.begin(0, [])
    assert await occupied(gateway_queue) == 8
    source = BatchSource(settings(config), StepGroups(settings(config), again, "effective"), _same, _never)
    taken = source.take(0)
    assert taken is not None
    assert (len(taken.groups), taken.uncounted) == (7, 3)
    assert again.commit(1, taken.refs) == 7
    assert again.commit(1, taken.refs) == 0
    after = ledger(config)
    assert (after.trained, after.without_contrast, after.unscored, after.queued) == (7, 2, 1, 1)


async def test_capacity_stays_free_over_a_commit_and_a_report_in_between(
    gateway_queue: GatewayQueue, open_learner: Open, config: QueueConfig
):
    """The step before is reported and committed while the next one collects: neither forgets what was freed, nor twice."""
    learner = begun(open_learner)
    collector = StepGroups(settings(config, max_staleness=2), learner, "effective")
    await feed(gateway_queue, [group_of_kind("") for _ in range(GROUPS)])
    assert collector.collect(0) == "full"
    done, _ = collector.hand_over()
    await feed(gateway_queue, [group_of_kind(kind) for kind in ("without_contrast", "", "without_contrast")])
    assert collector.collect(1) is None
    assert collector.collect(1) is None
    assert await occupied(gateway_queue) == GROUPS + 1
    learner.report(1, 0, uncommitted=GROUPS)
    assert await occupied(gateway_queue) == 1
    learner.commit(1, [ref for ref, _ in done])
    assert await occupied(gateway_queue) == 1
    learner.report(1, 0, uncommitted=0)
    assert await occupied(gateway_queue) == 1


async def test_an_older_learner_frees_nothing(gateway_queue: GatewayQueue, open_learner: Open, config: QueueConfig):
    learner = begun(open_learner)
    await feed(gateway_queue, [group_of_kind("without_contrast")])
    refs = [one.ref for one in learner.take(1, 0, 9)]
    open_learner().begin(0, [])
    with pytest.raises(FencedError):
        learner.free_capacity(refs)
    assert await occupied(gateway_queue) == 1


async def test_tokens_of_groups_that_are_not_trained_are_counted_once_by_reason(
    gateway_queue: GatewayQueue, open_learner: Open, config: QueueConfig
):
    """Each group has 8 generated tokens by its entry."""
    learner = begun(open_learner, versions=(0, 1, 2))
    assert set(learner.wasted().values()) == {0}
    learner.require(lambda version: version != 1)
    await feed(gateway_queue, [group_of_kind("", version) for version in (0, 0, 0, 1, 2, 2)])
    lost = group_of_kind("", 2)
    await feed(gateway_queue, [lost])
    with contextlib.closing(client(config)) as redis:
        redis.delete(Keys(config.run).payload("alpha", lost.group_id))
    taken = learner.take(9, 4, 3)
    assert len(taken) == 2
    refused = [(taken[0].ref, taken[0].group)]
    learner.quarantine(5, refused, "non-finite loss (nan)")
    generated = sum(generated_tokens(response) for response in taken[0].group.responses)
    expected = {"expired": 24, "unusable": 8, "lost": 8, "quarantined": generated}
    assert learner.wasted() == expected
    assert learner.wasted() == dict.fromkeys(expected, 0)


def _same(message: bytes | None) -> bytes:
    return message or b""


def _never() -> bool:
    return False
