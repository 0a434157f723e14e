"""Tests of leases on a real Redis: several gateways, clocks that jump, fleets that compete."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from learner.config import AdmissionConfig, QueueConfig
from learner.gateway.lease_shares import LeaseShares
from learner.queue import Allowance, GatewayQueue, LearnerQueue
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
    assert await leases.grant(wish("a", 6, lifetime_s=60), Allowance(BOUND, BOUND)) == 6
    await pass_time(leases, clock, 58)
    assert await promised(leases) == 6
    await pass_time(leases, clock, 4)
    assert await promised(leases) == 0
    assert await leases.grant(wish("b", 10), Allowance(BOUND, BOUND)) == 10


async def test_what_is_given_back_is_free_at_once(leases: Leases):
    await leases.occupancy()
    assert await leases.grant(wish("a", 10), Allowance(BOUND, BOUND)) == 10
    assert await leases.grant(wish("b", 4, returned=["a"]), Allowance(BOUND, BOUND)) == 4
    assert await promised(leases) == 4


@pytest.mark.parametrize("jump_s", [3600, 30 * 86_400])
async def test_a_clock_that_jumps_forward_mints_nothing(leases: Leases, clock: Clock, jump_s: int):
    await leases.occupancy()
    await leases.grant(wish("a", 6, lifetime_s=60), Allowance(BOUND, BOUND))
    clock.offset_ms += jump_s * 1000
    await pass_time(leases, clock, 50)
    assert await promised(leases) == 6  # the jump was worth 5 s at most
    await pass_time(leases, clock, 10)
    assert await promised(leases) == 0


@pytest.mark.parametrize("jump_s", [3600, 30 * 86_400])
async def test_a_clock_that_jumps_back_keeps_nothing_for_longer(leases: Leases, clock: Clock, jump_s: int):
    await leases.occupancy()
    await leases.grant(wish("a", 6, lifetime_s=60), Allowance(BOUND, BOUND))
    clock.offset_ms -= jump_s * 1000
    await pass_time(leases, clock, 58)
    assert await promised(leases) == 6
    await pass_time(leases, clock, 6)
    assert await promised(leases) == 0


async def test_a_clock_that_swings_neither_mints_nor_keeps(leases: Leases, clock: Clock):
    """Sets the clock back and forth by an hour every ten seconds; each jump forward may be worth 5 s at most."""
    await leases.occupancy()
    await leases.grant(wish("a", 6, lifetime_s=60), Allowance(BOUND, BOUND))
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
    assert await leases.grant(wish("a", 99), Allowance(BOUND, 99)) == BOUND


async def test_only_groups_not_stepped_on_count_against_their_fleet(
    gateway_queue: GatewayQueue, leases: Leases, open_learner: Open
):
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(4)], "alpha")
    await feed(gateway_queue, [valid_group() for _ in range(4)], "beta")
    assert len(learner.take(6, 0, 2)) == 6
    learner.report(1, 0, uncommitted=4)
    assert (await leases.occupancy()).occupied == {"alpha": 2, "beta": 2}
    assert await leases.grant(wish("a", 9), Allowance(99, share=5)) == 3


async def test_the_hungry_are_known_and_forgotten(leases: Leases, clock: Clock):
    await leases.occupancy()
    assert await leases.grant(wish("a", 11), Allowance(BOUND, BOUND)) == 10
    assert await leases.grant(wish("b", 1, "beta"), Allowance(BOUND, BOUND)) == 0
    assert (await leases.occupancy()).hungry == {"alpha", "beta"}
    await pass_time(leases, clock, 2)
    assert await leases.grant(wish("c", 1, "beta"), Allowance(BOUND, BOUND)) == 0
    await pass_time(leases, clock, 2)
    assert (await leases.occupancy()).hungry == {"beta"}


async def use(queue: GatewayQueue, leases: Leases, lease_id: str, groups: int, fleet: str = "alpha") -> None:
    await queue.flush([append(valid_group(), fleet, lease_id=lease_id) for _ in range(groups)], {}, [])
    await leases.occupancy()


async def test_a_renewed_lease_stays_until_it_is_no_longer_renewed(leases: Leases, clock: Clock):
    await leases.occupancy()
    await leases.grant(wish("a", 6, lifetime_s=60), Allowance(BOUND, BOUND))
    for _ in range(5):
        await pass_time(leases, clock, 40)
        assert await leases.renew("alpha", ["a"], 60, 3600) == []
    assert (await leases.occupancy()).renewed == {"alpha": 6}
    await pass_time(leases, clock, 58)
    assert await promised(leases) == 6
    await pass_time(leases, clock, 4)
    assert await promised(leases) == 0


async def test_no_lease_is_renewed_beyond_the_longest_time(leases: Leases, clock: Clock):
    await leases.occupancy()
    await leases.grant(wish("a", 6, lifetime_s=60), Allowance(BOUND, BOUND))
    await pass_time(leases, clock, 40)
    assert await leases.renew("alpha", ["a"], 60, 90) == []
    await pass_time(leases, clock, 40)
    assert await leases.renew("alpha", ["a"], 60, 90) == ["a"]
    assert await promised(leases) == 6  # it still ends when it was going to
    await pass_time(leases, clock, 12)
    assert await promised(leases) == 0


async def test_leases_that_cannot_be_renewed_are_named(gateway_queue: GatewayQueue, leases: Leases, clock: Clock):
    await leases.occupancy()
    await leases.grant(wish("gone", 2, lifetime_s=10), Allowance(99, 99))
    await pass_time(leases, clock, 12)
    for lease_id in ("used", "returned", "kept"):
        await leases.grant(wish(lease_id, 2), Allowance(99, 99))
    await leases.grant(wish("others", 2, "beta", returned=["kept"]), Allowance(99, 99))  # not beta's to give back
    await leases.grant(wish("x", 0, returned=["returned"]), Allowance(99, 99))
    await use(gateway_queue, leases, "used", 2)
    held = ["unknown", "gone", "used", "returned", "others", "kept"]
    assert await leases.renew("alpha", held, 60, 3600) == ["unknown", "gone", "used", "returned", "others"]


async def test_what_becomes_of_leases_is_remembered(gateway_queue: GatewayQueue, leases: Leases, clock: Clock):
    """Half the bound is the memory: one lease of 5 that is wasted costs 1 - 1/e."""
    await leases.occupancy()
    await leases.grant(wish("used", 5), Allowance(BOUND, BOUND))
    assert (await leases.occupancy()).use == {}
    await use(gateway_queue, leases, "used", 5)
    assert (await leases.occupancy()).use == {"alpha": 1.0}
    await leases.grant(wish("returned", 5), Allowance(BOUND, BOUND))
    await leases.grant(wish("x", 0, returned=["returned"]), Allowance(BOUND, BOUND))
    await pass_time(leases, clock, 62)
    assert (await leases.occupancy()).use == {"alpha": 1.0}
    await leases.grant(wish("wasted", 5), Allowance(BOUND, BOUND))
    await pass_time(leases, clock, 62)
    assert (await leases.occupancy()).use == {"alpha": pytest.approx(0.368, abs=0.001)}
    assert await leases.grant(wish("again", 5), Allowance(BOUND, BOUND)) == 5
    await use(gateway_queue, leases, "again", 5)
    assert (await leases.occupancy()).use == {"alpha": pytest.approx(0.768, abs=0.001)}  # 1 - (1 - 1/e) / e


async def test_groups_without_a_valid_lease_are_known(
    gateway_queue: GatewayQueue, leases: Leases, open_learner: Open, clock: Clock
):
    learner = begun(open_learner)
    await leases.occupancy()
    await leases.grant(wish("a", 2), Allowance(BOUND, BOUND))
    await use(gateway_queue, leases, "a", 2)
    assert (await leases.occupancy()).unleased == {}
    await use(gateway_queue, leases, "a", 1)  # used up
    await use(gateway_queue, leases, "invented", 1)
    await use(gateway_queue, leases, "", 1)
    assert (await leases.occupancy()).unleased == {"alpha": 3}
    taken = learner.take(5, 0, 2)
    learner.commit(1, [one.ref for one in taken])
    assert (await leases.occupancy()).unleased == {}


async def test_nobody_waits_for_what_was_never_promised(gateway_queue: GatewayQueue, leases: Leases):
    """Counts a fleet that floods up to its share, beside one whose leases are all counted."""
    await leases.occupancy()
    await feed(gateway_queue, [valid_group() for _ in range(50)], "flood")
    await leases.grant(wish("a", 3, "beta"), Allowance(99, 99))
    assert await leases.grant(wish("b", 99), Allowance(BOUND, BOUND, {"flood": 4})) == BOUND - 4 - 3


async def test_what_old_weights_may_not_have_makes_no_fleet_hungry(leases: Leases):
    await leases.occupancy()
    assert await leases.grant(wish("a", 6), Allowance(4, BOUND, whole=BOUND)) == 4
    assert await leases.grant(wish("b", 6), Allowance(0, BOUND, whole=BOUND)) == 0
    assert (await leases.occupancy()).hungry == frozenset()
    assert await leases.grant(wish("c", 6, "beta"), Allowance(8, 3, whole=BOUND)) == 3  # its share is what limits it
    assert (await leases.occupancy()).hungry == {"beta"}


async def test_a_gateway_knows_which_leases_cover_groups(config: QueueConfig, gateway_queue: GatewayQueue):
    """Leases that it granted itself without asking, others by asking Redis."""
    leases = gateway_queue.leases
    await leases.occupancy()
    await leases.grant(wish("a", 2), Allowance(BOUND, BOUND))
    assert [leases.spend("alpha", "a") for _ in range(3)] == [True, True, False]
    assert not leases.spend("beta", "a")
    other = GatewayQueue(config, 0)
    assert not other.leases.spend("alpha", "a")
    assert await other.leases.covered("alpha", ["a", "b", "a", "a"]) == [True, False, True, False]
    assert await other.leases.covered("beta", ["a"]) == [False]
    await other.close()


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
            allowance = rule.allowance(fleet, await leases.occupancy())
            count = await leases.grant(wish(lease_id, 50, fleet), allowance)
            groups = [append(valid_group(), fleet, lease_id=lease_id) for _ in range(count)]
            if groups:
                await gateway_queue.flush(groups, {}, [])
                granted[fleet] += count if turn >= 10 else 0
        assert await promised(leases) <= rule.bound()
        taken = learner.take(99, turn, 99)
        learner.commit(turn, [one.ref for one in taken])
    assert granted["alpha"] / granted.total() == pytest.approx(0.75, abs=0.015)
