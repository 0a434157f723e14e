"""Shares of the staleness bound: numbers worked by hand, what they guarantee, and fleets that saturate them."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.config import AdmissionConfig
from learner.gateway.lease_shares import LeaseShares, max_min_shares, round_shares
from learner.queue import Allowance, Occupancy


def lease_shares(bound: int, weights: dict[str, float] | None = None) -> LeaseShares:
    return LeaseShares(AdmissionConfig(groups_per_step=bound, max_staleness=0, weights=weights or {}))


def occupancy(occupied: dict[str, int], *hungry: str, step: int = 0) -> Occupancy:
    return Occupancy(step, occupied, frozenset(hungry))


def test_the_bound_is_the_steps_ahead_and_the_one_under_way():
    assert LeaseShares(AdmissionConfig(groups_per_step=16, max_staleness=4)).bound() == 80
    assert LeaseShares(AdmissionConfig(groups_per_step=16, max_staleness=0)).bound() == 16


def test_the_bound_follows_what_a_step_consumes_and_is_never_below_groups_per_step():
    rule = LeaseShares(AdmissionConfig(groups_per_step=16, max_staleness=4, weights={"a": 3.0}))
    seen = replace(occupancy({"a": 300}, "a", "b"), consumed=40)
    assert (rule.per_step(seen), rule.bound(seen)) == (40, 200)
    assert [rule.bound(replace(seen, consumed=groups)) for groups in (0, 9)] == [80, 80]
    assert (rule.share("a", seen), rule.share("b", seen)) == (150, 50)
    assert rule.share("a", replace(seen, hungry=frozenset())) == 200
    allowance = rule.allowance("b", seen)
    assert (allowance.bound, allowance.whole, allowance.share) == (200, 200, 50)


def test_alone_a_fleet_may_have_all():
    assert lease_shares(80).share("a", occupancy({"a": 70, "b": 5})) == 80
    assert lease_shares(80).share("a", occupancy({"a": 70, "b": 5}, "a")) == 80


def test_fleets_that_compete_are_limited_by_their_weights():
    rule = lease_shares(80, {"a": 3.0})
    seen = occupancy({"a": 80}, "a", "b")
    assert (rule.share("a", seen), rule.share("b", seen)) == (60, 20)


def test_what_satisfied_fleets_leave_is_shared():
    # c is satisfied with 8 of its 16; a and b share the other 72 as 3:1.
    shares = lease_shares(80, {"a": 3.0}).shares(occupancy({"a": 50, "c": 8}, "a", "b"))
    assert shares == {"a": 54, "b": 18, "c": 8}


def test_a_satisfied_fleet_above_its_share_does_not_shrink_it_for_others():
    # b took all while it was alone, and is satisfied; a may take all that becomes free, until b asks for more.
    assert lease_shares(80).share("a", occupancy({"b": 80})) == 80
    assert lease_shares(80).shares(occupancy({"b": 80}, "a")) == {"a": 40, "b": 40}


def test_a_flood_beyond_its_share_is_not_counted():
    seen = Occupancy(0, {"flood": 1024, "a": 10}, frozenset({"a"}), unleased={"flood": 1024})
    assert lease_shares(80).allowance("a", seen) == Allowance(80, 80, {"flood": 40})


def test_a_flood_within_its_share_is_counted():
    seen = Occupancy(0, {"flood": 30}, frozenset(), unleased={"flood": 30})
    assert lease_shares(80).allowance("a", seen) == Allowance(80, 80)


def test_used_leases_beyond_the_share_are_waited_for():
    # b had all while it was alone: 50 of its groups are queued, and it uses all its promises.
    seen = Occupancy(0, {"b": 80}, frozenset({"b"}), fresh={"b": 30}, use={"b": 1.0})
    assert lease_shares(80).allowance("a", seen) == Allowance(80, 40)


@pytest.mark.parametrize(
    ("more", "counted"),
    [
        ({"use": {"b": 1.0}, "fresh": {"b": 80}}, 80),  # b uses what it is promised
        ({"use": {"b": 0.75}, "fresh": {"b": 80}}, 60),
        ({"use": {"b": 0.0}, "fresh": {"b": 80}}, 0),
        ({"fresh": {"b": 80}}, 0),  # b has never used a lease
        ({"use": {"b": 1.0}, "renewed": {"b": 80}}, 0),
        ({"use": {"b": 1.0}, "renewed": {"b": 20}, "fresh": {"b": 60}}, 60),
    ],
)
def test_promises_that_are_kept_from_others_count_up_to_the_share(more: dict[str, Any], counted: int):
    rule = lease_shares(80)
    seen = Occupancy(0, {"b": 80}, frozenset({"b"}), **more)
    share = rule.share("b", replace(seen, hungry=frozenset({"a", "b"})))
    assert rule.allowance("a", seen).counted.get("b", 80) == max(share, counted)


def test_a_fleet_that_wastes_its_leases_has_a_lower_weight_and_never_none():
    rule = lease_shares(85)
    seen = Occupancy(0, {}, frozenset({"a", "b"}), use={"b": 0.25})
    assert rule.shares(seen) == {"a": 68, "b": 17}
    assert rule.shares(replace(seen, use={"b": 0.0})) == {"a": 80, "b": 5}
    assert rule.share("b", replace(seen, hungry=frozenset({"b"}), use={"b": 0.0})) == 85  # alone it may have all


WANTED = st.dictionaries(
    st.sampled_from("abcdefgh"), st.one_of(st.integers(1, 200).map(float), st.just(math.inf)), min_size=1
)
WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.01, 100))


@given(st.integers(1, 300), WANTED, WEIGHTS)
def test_shares_are_max_min_fair(bound: int, wanted: dict[str, float], weights: dict[str, float]):
    shares = max_min_shares(float(bound), wanted, weights)
    assert set(shares) == set(wanted)
    assert sum(shares.values()) == pytest.approx(min(bound, sum(wanted.values())))
    for fleet, share in shares.items():
        assert share <= wanted[fleet]
        # A fleet that gets less than it wants has, per weight, at least as much as anybody.
        if share < wanted[fleet] - 1e-6:
            level = share / weights.get(fleet, 1.0)
            assert all(other / weights.get(name, 1.0) <= level * (1 + 1e-6) for name, other in shares.items())


@given(st.integers(1, 300), WANTED, WEIGHTS, st.integers(0, 10_000))
def test_rounded_shares_never_exceed_the_bound(
    bound: int, wanted: dict[str, float], weights: dict[str, float], step: int
):
    hungry = [fleet for fleet, most in wanted.items() if most == math.inf]
    occupied = {fleet: int(most) for fleet, most in wanted.items() if most < math.inf}
    shares = lease_shares(bound, weights).shares(occupancy(occupied, *hungry, step=step))
    assert sum(shares.values()) <= bound
    assert all(share >= 0 for share in shares.values())
    if hungry:
        assert sum(shares.values()) == bound  # nothing is left unused


def test_small_shares_come_out_right_on_average():
    exact = {f"fleet-{i:02}": 16 / 50 for i in range(50)}
    steps = [round_shares(exact, (step * 0.6180339887) % 1.0) for step in range(1000)]
    for fleet in exact:
        assert sum(shares[fleet] for shares in steps) / 1000 == pytest.approx(0.32, abs=0.01)


class Run:
    """Leases as Redis keeps them, and a learner that trains what waits, oldest first, a batch a step."""

    def __init__(self, bound: int, batch: int, weights: dict[str, float]) -> None:
        self.rule = lease_shares(bound, weights)
        self.batch = batch
        self.step = 0
        self.hungry: set[str] = set()
        self.generating: list[tuple[float, str]] = []  # when it is done, fleet
        self.queue: list[str] = []
        self.trained: dict[str, int] = {}

    def occupied(self) -> dict[str, int]:
        names = [fleet for _, fleet in self.generating] + self.queue
        return {fleet: names.count(fleet) for fleet in set(names)}

    def ask(self, fleet: str, groups: int, until: float) -> int:
        occupied = self.occupied()
        share = self.rule.share(fleet, occupancy(occupied, *self.hungry, step=self.step))
        granted = max(0, min(groups, self.rule.bound() - sum(occupied.values()), share - occupied.get(fleet, 0)))
        if granted < groups:
            self.hungry.add(fleet)
        self.generating += [(until, fleet)] * granted
        assert sum(self.occupied().values()) <= self.rule.bound()
        return granted

    def advance(self, now: float) -> None:
        self.queue += [fleet for at, fleet in sorted(self.generating) if at <= now]
        self.generating = [(at, fleet) for at, fleet in self.generating if at > now]
        if len(self.queue) >= self.batch:
            self.step += 1
            for fleet in self.queue[: self.batch]:
                self.trained[fleet] = self.trained.get(fleet, 0) + 1
            self.queue = self.queue[self.batch :]


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([(40, 8), (10, 2), (7, 2)]), st.floats(0.5, 6.0))
def test_saturating_fleets_get_what_their_weights_say(seed: int, size: tuple[int, int], weight: float):
    """Whichever asks first or more often, whatever was leased before; the queue, which is FIFO, decides nothing here."""
    chance = random.Random(seed)
    run = Run(*size, weights={"a": weight})
    run.ask("b", 1000, 1.0)  # b had it all
    for now in range(700):
        if now == 100:
            run.trained = {}
        for _ in range(chance.randint(1, 6)):
            fleet = chance.choice(("a", "a", "b"))
            run.ask(fleet, chance.randint(5, 40), now + chance.uniform(1, 4))
        run.advance(float(now))
    share = run.trained["a"] / sum(run.trained.values())
    assert share == pytest.approx(weight / (weight + 1), abs=0.05)


def test_a_slow_fleet_does_not_hold_up_the_others_share():
    run = Run(40, 8, {})
    for now in range(400):
        for fleet, length in (("slow", 50.0), ("fast", 2.0)):
            run.ask(fleet, 40, now + length)
        run.advance(float(now))
    # fast keeps its half of the capacity, 20 groups for 2 to 3 ticks and in the queue, the whole time.
    assert run.trained["fast"] > 400 * 20 / 5
    assert run.trained["slow"] > 0
