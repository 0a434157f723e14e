"""What honest fleets get of the learner on a simulated queue, beside a flood without leases and a hoarder of leases."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.config import AdmissionConfig
from learner.gateway.lease_shares import LeaseShares
from learner.queue import Occupancy
from learner.queue.fairness import DeficitRoundRobin

_LIFETIME = 20  # rounds until a lease expires
_FLOOD = "flood"
_HOARD = "hoard"


@dataclass
class Lease:
    fleet: str
    left: int
    expires: int
    renewed: bool = False


@dataclass
class Queue:
    """Leases and groups as Redis keeps them, and a learner that takes from the fleets in turn, a batch a round.

    Attributes:
        waiting: fleet -> for each queued group, oldest first, whether a lease covered it.
        late: groups of each fleet that waited for more steps than the bound allows, and one more: shares and turns are whole
            groups.
    """

    batch: int
    staleness: int
    weights: dict[str, float] = field(default_factory=dict)
    round: int = 0
    leases: list[Lease] = field(default_factory=list)
    waiting: dict[str, deque[tuple[bool, int]]] = field(default_factory=dict)
    hungry: dict[str, int] = field(default_factory=dict)
    use: dict[str, float] = field(default_factory=dict)
    trained: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rule = LeaseShares(
            AdmissionConfig(groups_per_step=self.batch, max_staleness=self.staleness, weights=self.weights)
        )
        self.turns = DeficitRoundRobin(self.weights)

    def see(self) -> Occupancy:
        promised = {kind: Counter[str]() for kind in (False, True)}
        for lease in self.leases:
            promised[lease.renewed][lease.fleet] += lease.left
        queued = Counter({fleet: len(groups) for fleet, groups in self.waiting.items()})
        hungry = frozenset(fleet for fleet, when in self.hungry.items() if self.round - when <= 2)
        unleased = {fleet: sum(not covered for covered, _ in groups) for fleet, groups in self.waiting.items()}
        occupied = dict(queued + promised[False] + promised[True])
        return Occupancy(self.round, occupied, hungry, unleased, promised[False], promised[True], self.use)

    def ask(self, fleet: str, groups: int) -> Lease:
        seen = self.see()
        limits = self.rule.allowance(fleet, seen)
        counted = sum(min(n, limits.counted.get(name, n)) for name, n in seen.occupied.items())
        granted = max(0, min(groups, limits.bound - counted, limits.share - seen.occupied.get(fleet, 0)))
        if granted < groups:
            self.hungry[fleet] = self.round
        lease = Lease(fleet, granted, self.round + _LIFETIME)
        self.leases += [lease] if granted else []
        return lease

    def use_up(self, lease: Lease) -> None:
        """Submits all groups that a lease covers."""
        self.waiting.setdefault(lease.fleet, deque()).extend([(True, self.round)] * lease.left)
        self.end(lease, lease.left, 0)

    def flood(self, fleet: str, groups: int) -> None:
        """Submits groups without a lease; those that the fleet has no room for are told to come back."""
        accepted = max(0, min(groups, self.rule.room(fleet, self.see())))
        self.waiting.setdefault(fleet, deque()).extend([(False, self.round)] * int(accepted))

    def end(self, lease: Lease, used: int, wasted: int) -> None:
        if used + wasted:
            keep = math.exp(-2 * (used + wasted) / self.rule.bound())
            self.use[lease.fleet] = self.use.get(lease.fleet, 1.0) * keep + (1 - keep) * used / (used + wasted)
        lease.left = 0

    def step(self) -> None:
        """Trains one batch, and takes expired leases back."""
        for fleet in self.turns.choose({name: [1] * len(groups) for name, groups in self.waiting.items()}, self.batch):
            _, since = self.waiting[fleet].popleft()
            self.trained[fleet] += 1
            self.late[fleet] += self.round - since > self.staleness + 1
        self.round += 1
        for lease in self.leases:
            if lease.expires <= self.round:
                self.end(lease, 0, lease.left)
        self.leases = [one for one in self.leases if one.left]


def play(queue: Queue, honest: list[str], rounds: int, flood: int, hoard: int, renews: bool = False) -> None:
    """Plays rounds in which a fleet floods and another one hoards, both first; honest ones use all they get at once."""
    chance = random.Random(rounds)
    for _ in range(rounds):
        queue.flood(_FLOOD, flood)
        if hoard:
            queue.ask(_HOARD, hoard)
        for lease in queue.leases:
            if renews and lease.fleet == _HOARD:
                lease.renewed, lease.expires = True, queue.round + _LIFETIME
        for fleet in chance.sample(honest, len(honest)):
            queue.use_up(queue.ask(fleet, 1000))
        queue.step()


SIZES = st.sampled_from([(16, 4), (8, 2), (4, 1), (8, 0)])


@settings(deadline=None, max_examples=20)
@given(SIZES, st.integers(1, 3), st.sampled_from([0, 30, 200]), st.sampled_from([0, 5, 1000]), st.booleans())
def test_every_honest_fleet_gets_nine_tenths_of_its_fair_share(
    size: tuple[int, int], honest: int, flood: int, hoard: int, renews: bool
):
    """The fair share: the learner divided equally between all fleets."""
    queue = Queue(*size)
    names = [f"honest-{i}" for i in range(honest)]
    play(queue, names, 20, flood, hoard, renews)
    queue.late.clear()  # what a fleet was granted while it was alone may be late when others have come
    play(queue, names, 100, flood, hoard, renews)
    fair = 120 * queue.batch / (honest + (flood > 0) + (hoard > 0))
    assert min(queue.trained[name] for name in names) >= 0.9 * fair
    assert not any(queue.late[name] for name in names)


@settings(deadline=None, max_examples=15)
@given(st.floats(0.3, 5.0), st.sampled_from([0, 200]), st.sampled_from([0, 1000]))
def test_weights_hold_beside_a_flood_and_a_hoarder(weight: float, flood: int, hoard: int):
    queue = Queue(16, 4, weights={"honest-0": weight})
    play(queue, ["honest-0", "honest-1"], 120, flood, hoard)
    total = weight + 1.0 + (flood > 0) + (hoard > 0)
    assert queue.trained["honest-0"] >= 0.9 * 120 * 16 * weight / total
    assert queue.trained["honest-1"] >= 0.9 * 120 * 16 / total


def test_a_hoarders_share_shrinks_and_returns_when_it_uses_its_leases():
    queue = Queue(16, 4)
    play(queue, ["honest"], 3 * _LIFETIME, 0, 1000)
    competing = lambda: queue.rule.share(_HOARD, queue.see())  # noqa: E731
    assert competing() < 0.3 * queue.rule.bound()
    turns = 0
    while competing() < 0.45 * queue.rule.bound():
        play(queue, [_HOARD, "honest"], 1, 0, 0)
        turns += 1
    assert turns < 2 * _LIFETIME  # the last hoarded leases have to expire first


def test_one_crash_costs_a_fleet_little_and_not_for_long():
    queue = Queue(16, 4)
    play(queue, ["a", "b"], 50, 0, 0)
    crashed = queue.ask("a", 1000)  # nobody will submit these
    for _ in range(_LIFETIME + 1):
        play(queue, ["b"], 1, 0, 0)
    assert crashed not in queue.leases
    before = queue.trained.copy()
    play(queue, ["a", "b"], 20, 0, 0)
    assert queue.trained["a"] - before["a"] >= 0.8 * 20 * 8


@pytest.mark.parametrize("flood", [0, 64])
def test_a_fleet_alone_may_have_all(flood: int):
    queue = Queue(16, 4)
    assert queue.ask("a", 1000).left == 80
    queue = Queue(16, 4)
    queue.flood(_FLOOD, flood)
    assert len(queue.waiting[_FLOOD]) == flood
    assert queue.ask("a", 1000).left == 80 - min(flood, 40)
