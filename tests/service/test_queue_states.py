"""Tests that the ledger balances after any operations in any order: a real Redis against a model of the queue in Python."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from learner.config import QueueConfig
from learner.queue import (
    Allowance,
    EmbeddedRedis,
    FencedError,
    GatewayQueue,
    GroupRef,
    LearnerQueue,
    UnavailableError,
    imbalances,
    read_ledgers,
    recount,
)
from learner.queue.keys import Keys
from learner.queue.leases import Leases
from leeway.v1 import rollout_pb2 as pb
from tests.service.queue_model import Model
from tests.service.queueing import append, group_of_kind, kind_of, wish

FLEETS = ("alpha", "beta")
KINDS = st.sampled_from(["", "without_contrast", "unscored"])
MAX_STALENESS = 2
BOUND = 12


class QueueMachine(RuleBasedStateMachine):
    """Operations on the queue, in any order.

    Appends (again), takes, commits (again), expiry, learner crashes and takeovers, zombies, Redis kills, and leases that are
    used, given back or left to expire.
    """

    directory: Path
    server: EmbeddedRedis
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        # One server for all examples; a run of its own for each.
        type(self).runs += 1
        self.config = QueueConfig(url=self.server.url, run=f"states-{self.runs}", timeout_s=5.0)
        self.loop = asyncio.new_event_loop()
        self.models = {fleet: Model() for fleet in FLEETS}
        self.groups: list[tuple[str, pb.Group]] = []
        self.in_flight: list[tuple[str, GroupRef]] = []  # handed out to the living learner, not finished
        self.checkpoint: list[tuple[str, GroupRef]] = []  # trained, in a durable checkpoint, not committed
        self.done: list[GroupRef] = []
        self.handed: set[str] = set()  # to the living learner
        self.step = 0
        self.stepped = 0  # reported by the learner, and not committed since
        self.promised: dict[str, tuple[str, int]] = {}  # lease -> fleet, groups
        self.leased = 0  # leases ever asked for
        self.clock_ms = 0
        self.zombie: LearnerQueue | None = None

    @initialize()
    def first_learner(self) -> None:
        self.gateway = GatewayQueue(self.config, 0)
        self.run(self.gateway.check())
        self.leases = Leases(Keys(self.config.run), self.gateway._call, lambda: self.clock_ms)
        self.learner = LearnerQueue.open(self.config)
        self.learner.begin(0, [])
        self.learner.publish(pb.Policy(version=0, step=0, epoch=1))

    @rule(fleet=st.sampled_from(FLEETS), count=st.integers(1, 4), again=st.booleans(), data=st.data())
    def submit(self, fleet: str, count: int, again: bool, data: st.DataObject) -> None:
        known = [group for name, group in self.groups if name == fleet]
        newest = (self.learner.next_version()) - 1
        batch = [
            data.draw(st.sampled_from(known)) if again and known else group_of_kind(data.draw(KINDS), newest)
            for _ in range(count)
        ]
        lease = data.draw(st.sampled_from(["", "unknown", *self.promised]))
        flushed = self.run(self.gateway.flush([append(group, fleet, lease_id=lease) for group in batch], {}, []))
        model = self.models[fleet]
        for group, outcome in zip(batch, flushed.outcomes, strict=True):
            new = all(group.group_id != other.group_id for _, other in self.groups)
            assert outcome.value == ("accepted" if new else "duplicate")
            model.counts.update(["received", outcome.value])
            if new:
                model.queued.append(group.group_id)
                self.groups.append((fleet, group))
                model.reasons.update(response.unscored for response in group.responses if response.unscored)
                self.use(fleet, lease)

    @rule(fleet=st.sampled_from(FLEETS), groups=st.sampled_from([1, 3, BOUND + 2]), data=st.data())
    def lease(self, fleet: str, groups: int, data: st.DataObject) -> None:
        """Checks that leases never exceed the bound and use all of it, and that no fleet can give back another's lease."""
        returned = data.draw(st.sampled_from(["", *self.promised]))
        occupancy = self.run(self.leases.occupancy())
        assert sum(occupancy.occupied.values()) == self.holding()
        if returned and self.promised[returned][0] == fleet:
            del self.promised[returned]
        room = max(0, BOUND - self.holding())
        self.leased += 1
        lease_id = f"lease-{self.leased}"
        asked = wish(lease_id, groups, fleet, lifetime_s=100.0, returned=[returned] if returned else [])
        granted = self.run(self.leases.grant(asked, Allowance(BOUND, 10 * BOUND)))
        assert granted == min(groups, room)
        if granted:
            self.promised[lease_id] = (fleet, granted)

    @rule()
    def leases_expire(self) -> None:
        for _ in range(25):  # looks, each worth 5 s at most, whatever the clock says
            self.clock_ms += 3_600_000
            self.run(self.leases.occupancy())
        self.promised = {}

    @rule()
    def clock_jumps_back(self) -> None:
        self.clock_ms -= 3_600_000

    @rule(fleet=st.sampled_from(FLEETS))
    def reject_and_retry(self, fleet: str) -> None:
        counts = {"received": 2, "retried": 1, "retried:full": 1, "rejected": 1, "rejected:temperature": 1}
        assert self.run(self.gateway.flush([], {fleet: counts}, [])).counted == {fleet}
        self.models[fleet].counts.update({"received": 2, "retried": 1, "rejected": 1})

    @rule(groups=st.integers(1, 5))
    def take(self, groups: int) -> None:
        before = {fleet: list(model.pending) + list(model.queued) for fleet, model in self.models.items()}
        waiting = self.learner.waiting()
        taken = self.learner.take(groups, self.step, MAX_STALENESS)
        for fleet, model in self.models.items():
            mine = [one for one in taken if one.ref.fleet == fleet]
            fresh = [name for name in before[fleet] if name not in self.handed]
            cut = 0
            for one in mine:  # in order; what was passed over had expired
                while fresh[cut] != one.ref.group_id:
                    self.expire(model, fresh[cut])
                    cut += 1
                self.deliver(model, fresh[cut])
                cut += 1
                self.in_flight.append((fleet, one.ref))
                self.handed.add(one.ref.group_id)
            # Groups behind the last one handed out may have expired too; those that did must be too old.
            real = self.account(fleet).expired
            while model.counts["expired"] < real:
                self.expire(model, fresh[cut])
                cut += 1
        assert len(taken) == groups or self.learner.waiting() == 0
        assert waiting >= len(taken)

    @rule()
    def train(self) -> None:
        """Makes a step with the groups in flight, and a durable checkpoint that contains them; commits nothing yet."""
        self.step += 1
        self.checkpoint += self.in_flight
        self.in_flight = []
        self.learner.publish(pb.Policy(version=self.learner.next_version(), step=self.step, epoch=self.learner.epoch))
        self.learner.report(self.step, 0, len(self.checkpoint))
        self.stepped = len(self.checkpoint)

    @rule()
    def commit(self) -> None:
        refs = [ref for _, ref in self.checkpoint]
        assert self.learner.commit(self.step, refs + self.done) == len(refs)
        self.finish_checkpoint()

    @rule()
    def learner_crashes_and_resumes(self) -> None:
        self.zombie = self.learner
        self.learner = LearnerQueue.open(self.config)
        refs = [ref for _, ref in self.checkpoint]
        assert self.learner.begin(self.step, refs) == len(refs)
        self.finish_checkpoint()
        for model in self.models.values():
            model.counts["redelivered"] += len(model.pending)
        self.in_flight = []
        self.handed = set()

    @precondition(lambda self: self.zombie is not None)
    @rule()
    def zombie_acts(self) -> None:
        assert self.zombie is not None
        for action in (
            lambda zombie: zombie.commit(
                99, [ref for _, ref in self.in_flight] or self.done or [GroupRef("alpha", "x", "1-1")]
            ),
            lambda zombie: zombie.report(99, 99, 0),
            lambda zombie: zombie.publish(pb.Policy(version=9999, step=99, epoch=zombie.epoch)),
        ):
            try:
                action(self.zombie)
            except FencedError:
                continue
            raise AssertionError("a zombie changed something")

    @rule()
    def redis_is_killed(self) -> None:
        self.server.child.kill()
        type(self).server = self.server.restart()
        with contextlib.suppress(UnavailableError):
            self.run(self.gateway.ledger("alpha"))  # the gateway notices

    @invariant()
    def the_ledger_balances(self) -> None:
        sizes = {group.group_id: group.ByteSize() for _, group in self.groups}
        for ledger in read_ledgers(self.config.url, self.config.run):
            assert imbalances(ledger) == []
            expected = self.models[ledger.fleet].ledger(ledger.fleet, sizes)
            if ledger.rejected:
                expected.rejected_by_reason["temperature"] = ledger.rejected
                expected.retried_by_reason["full"] = ledger.retried
            for measure in (pb.MEASURE_LENGTH, pb.MEASURE_REWARD):
                counts: Counter[str] = Counter()
                for bucket in ledger.histogram:
                    counts[bucket.outcome] += bucket.count if bucket.measure == measure else 0
                # Of a group without a scored response there is no mean reward.
                missing = self.models[ledger.fleet].without_reward if measure == pb.MEASURE_REWARD else Counter[str]()
                assert counts["trained"] == ledger.trained - missing["trained"]
                assert counts["expired"] == ledger.expired - missing["expired"]
            ledger.ClearField("histogram")
            assert ledger == expected

    @invariant()
    def a_recount_agrees(self) -> None:
        found = recount(self.config, [ref for _, ref in self.checkpoint])
        assert found.discrepancies == []
        assert found.unverified == []
        assert found.entries == sum(len(model.queued) + len(model.pending) for model in self.models.values())

    def teardown(self) -> None:
        if hasattr(self, "gateway"):
            self.run(self.gateway.close())
            self.learner.close()
        self.loop.close()

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def account(self, fleet: str) -> pb.Ledger:
        return next((one for one in read_ledgers(self.config.url, self.config.run) if one.fleet == fleet), pb.Ledger())

    def holding(self) -> int:
        """Counts the groups that are leased, queued, or in flight and not trained on."""
        present = sum(len(model.queued) + len(model.pending) for model in self.models.values())
        return present - self.stepped + sum(groups for _, groups in self.promised.values())

    def use(self, fleet: str, lease: str) -> None:
        """Records that a group was accepted under a lease; ignores a lease of another fleet."""
        owner, groups = self.promised.get(lease, ("", 0))
        if owner == fleet:
            self.promised[lease] = (owner, groups - 1)
            if groups == 1:
                del self.promised[lease]

    def deliver(self, model: Model, name: str) -> None:
        if name in model.queued:
            assert model.queued.popleft() == name  # FIFO
            model.pending.append(name)

    def expire(self, model: Model, name: str) -> None:
        group = next(group for _, group in self.groups if group.group_id == name)
        assert self.learner.staleness(group.responses[0].spans[0].version, self.step) > MAX_STALENESS
        self.deliver(model, name)
        model.pending.remove(name)
        model.finished[name] = "expired"
        model.counts["expired"] += 1
        model.without_reward["expired"] += kind_of(group) == "unscored"

    def finish_checkpoint(self) -> None:
        for fleet, ref in self.checkpoint:
            model = self.models[fleet]
            model.pending.remove(ref.group_id)  # trained once: it was there
            model.finished[ref.group_id] = "trained"
            model.counts["trained"] += 1
            kind = kind_of(next(group for _, group in self.groups if group.group_id == ref.group_id))
            if kind:
                model.counts[kind] += 1
            model.without_reward["trained"] += kind == "unscored"
            self.done.append(ref)
        self.checkpoint = []
        self.stepped = 0


def test_the_ledger_balances_in_every_reachable_state():
    with tempfile.TemporaryDirectory() as directory:
        QueueMachine.server = EmbeddedRedis.start(Path(directory) / "redis")
        try:
            run_state_machine_as_test(
                QueueMachine,
                settings=settings(
                    max_examples=15,
                    stateful_step_count=40,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],  # shrinking against a real server takes minutes
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            QueueMachine.server.stop()
