"""Tests of leases on a real Redis: several gateways, clocks that jump, fleets that compete."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from learner.config import AdmissionConfig, QueueConfig
from learner.gateway.lease_shares import LeaseShares
from learner.queue import GatewayQueue, LearnerQueue
from learner.queue.keys import Keys
from learner.queue.leases import Leases
from tests.service.fleet import RUN, valid_group
from tests.service.queueing import append, begun, feed, lease, wish

Open = Callable[[], LearnerQueue]
BOUND = 10


class Clock:
    """An offset in ms that is added to Redis's clock, as if that had been set."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def __call__(self) -> int:
        return self.offset_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(gateway_queue: GatewayQueue, clock: Clock) -> Leases:
    return Leases(Keys(RUN), gateway_queue._call, clock)


async def promised(leases: Leases) -> int:
    return sum((await leases.occupancy()).occupied.values())


async def pass_time(leases: Leases, clock: Clock, seconds: int) -> None:
    """Lets ``seconds`` pass as gateways see it, which read the occupancy once a second."""
    for _ in range(seconds):
        clock.offset_ms += 1000
        await leases.occupancy()


async def test_a_promise_that_is_not_kept_returns(leases: Leases, clock: Clock):
    await leases.occupancy()
    assert await leases.grant(wish("a", 6, lifetime_s=60), BOUND, BOUND) == 6
    await pass_time(leases, clock, 58)
    assert await promised(leases) == 6
    await pass_time(leases, clock, 4)
    assert await promised(leases) == 0
    assert await leases.grant(wish("b", 10), BOUND, BOUND) == 10


async def test_what_is_given_back_is_free_at_once(leases: Leases):
    await leases.occupancy()
    assert await leases.grant(wish("a", 10), BOUND, BOUND) == 10
    assert await leases.grant(wish("b", 4, returned=["a"]), BOUND, BOUND) == 4
    assert await promised(leases) == 4


@pytest.mark.parametrize("jump_s", [3600, 30 * 86_400])
async def test_a_clock_that_jumps_forward_mints_nothing(leases: Leases, clock: Clock, jump_s: int):
    await leases.occupancy()
    await leases.grant(wish("a", 6, lifetime_s=60), BOUND, BOUND)
    clock.offset_ms += jump_s * 1000
    await pass_time(leases, clock, 50)
    assert await promised(leases) == 6  # the jump was worth 5 s at most
    await pass_time(leases, clock, 10)
    assert await promised(leases) == 0


@pytest.mark.parametrize("jump_s", [3600, 30 * 86_400])
async def test_a_clock_that_jumps_back_keeps_nothing_for_longer(leases: Leases, clock: Clock, jump_s: int):
    await leases.occupancy()
    await leases.grant(wish("a", 6, lifetime_s=60), BOUND, BOUND)
    clock.offset_ms -= jump_s * 1000
    await pass_time(leases, clock, 58)
    assert await promised(leases) == 6
    await pass_time(leases, clock, 6)
    assert await promised(leases) == 0


async def test_a_clock_that_swings_neither_mints_nor_keeps(leases: Leases, clock: Clock):
    """Sets the clock back and forth by an hour every ten seconds; each jump forward may be worth 5 s at most."""
    await leases.occupancy()
    await leases.grant(wish("a", 6, lifetime_s=60), BOUND, BOUND)
    for swing in range(3):
        clock.offset_ms += 3_600_000 if swing % 2 else -3_600_000
        await pass_time(leases, clock, 10)
    assert await promised(leases) == 6
    for swing in range(4):
        clock.offset_ms += 3_600_000 if swing % 2 else -3_600_000
        await pass_time(leases, clock, 10)
    assert await promised(leases) == 0


async def test_gateways_side_by_side_keep_one_bound(config: QueueConfig, gateway_queue: GatewayQueue):
    queues = [GatewayQueue(config, 0) for _ in range(3)]
    asked = [
        lease(queue, wish(f"{i}-{turn}", 3, fleet=f"fleet-{turn % 4}"), BOUND)
        for i, queue in enumerate(queues)
        for turn in range(20)
    ]
    assert sum(await asyncio.gather(*asked)) == BOUND
    for queue in queues:
        await queue.close()


async def test_a_commit_before_the_next_report_mints_nothing(
    gateway_queue: GatewayQueue, leases: Leases, open_learner: Open
):
    """Groups that were trained on do not count; when they leave the queue, they must not be subtracted a second time."""
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(8)])
    taken = learner.take(8, 0, 2)
    learner.report(1, 0, uncommitted=8)
    assert (await leases.occupancy()).occupied == {"alpha": 0}
    learner.commit(1, [one.ref for one in taken])
    assert await promised(leases) == 0
    assert await leases.grant(wish("a", 99), BOUND, 99) == BOUND


async def test_only_groups_not_stepped_on_count_against_their_fleet(
    gateway_queue: GatewayQueue, leases: Leases, open_learner: Open
):
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(4)], "alpha")
    await feed(gateway_queue, [valid_group() for _ in range(4)], "beta")
    assert len(learner.take(6, 0, 2)) == 6
    learner.report(1, 0, uncommitted=4)
    assert (await leases.occupancy()).occupied == {"alpha": 2, "beta": 2}
    assert await leases.grant(wish("a", 9), 99, share=5) == 3


async def test_the_hungry_are_known_and_forgotten(leases: Leases, clock: Clock):
    await leases.occupancy()
    assert await leases.grant(wish("a", 11), BOUND, BOUND) == 10
    assert await leases.grant(wish("b", 1, "beta"), BOUND, BOUND) == 0
    assert (await leases.occupancy()).hungry == {"alpha", "beta"}
    await pass_time(leases, clock, 2)
    assert await leases.grant(wish("c", 1, "beta"), BOUND, BOUND) == 0
    await pass_time(leases, clock, 2)
    assert (await leases.occupancy()).hungry == {"beta"}


async def test_saturating_fleets_are_promised_what_their_weights_say(
    gateway_queue: GatewayQueue, leases: Leases, open_learner: Open
):
    """Makes leases the bottleneck: every promise becomes a group at once, and the learner trains all that waits."""
    learner = begun(open_learner)
    rule = LeaseShares(AdmissionConfig(groups_per_step=8, max_staleness=4, weights={"alpha": 3.0}))
    granted: Counter[str] = Counter()
    for turn in range(60):
        for fleet in ("beta", "alpha", "beta"):  # beta asks first, and twice as often
            lease_id = f"{fleet}-{turn}-{granted[fleet]}"
            share = rule.share(fleet, await leases.occupancy())
            count = await leases.grant(wish(lease_id, 50, fleet), rule.bound, share)
            groups = [append(valid_group(), fleet, lease_id=lease_id) for _ in range(count)]
            if groups:
                await gateway_queue.flush(groups, {}, [])
                granted[fleet] += count if turn >= 10 else 0
        assert await promised(leases) <= rule.bound
        taken = learner.take(99, turn, 99)
        learner.commit(turn, [one.ref for one in taken])
    assert granted["alpha"] / granted.total() == pytest.approx(0.75, abs=0.015)
