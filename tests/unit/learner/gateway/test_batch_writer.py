"""The batch writer against a scripted queue: order within a fleet, turns between fleets, rates, and every group's one ack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from learner.config import AdmissionConfig, QuotaConfig
from learner.gateway.admission_gate import AdmissionGate
from learner.gateway.batch_writer import BatchWriter
from learner.gateway.health import GatewayHealth
from learner.gateway.metrics import GatewayMetrics
from learner.gateway.pending_submit import PendingSubmit
from learner.queue import Append, Appended, Backlog, Flushed, Occupancy, Permit, UnavailableError
from leeway.v1 import rollout_pb2 as pb

ACCEPTED, RETRY = pb.OUTCOME_ACCEPTED, pb.OUTCOME_RETRY


class ScriptedQueue:
    """Accepts everything; remembers the flushes, the counts and what was asked of the rates."""

    def __init__(self) -> None:
        self.flushes: list[list[str]] = []
        self.counts: list[dict[str, dict[str, int]]] = []
        self.asked: list[tuple[str, int]] = []
        self.permits: Callable[[int], Permit] = lambda groups: Permit(groups, 0.0)
        self.backlog: dict[str, Backlog] | None = {}
        self.seen: Occupancy | None = None

    async def flush(
        self, groups: Sequence[Append], counts: Mapping[str, Mapping[str, int]], quarantined: Sequence[str]
    ) -> Flushed:
        self.flushes.append([group.group_id for group in groups])
        self.counts.append({fleet: dict(fields) for fleet, fields in counts.items()})
        outcome = Appended.UNAVAILABLE if self.backlog is None else Appended.ACCEPTED
        return Flushed([outcome] * len(groups), set(counts), self.backlog)

    async def permit(self, fleet: str, groups_per_s: Any, bytes_per_s: Any, sizes: Sequence[int]) -> Permit:
        self.asked.append((fleet, len(sizes)))
        return self.permits(len(sizes))


class ScriptedRecentAcks:
    def __init__(self) -> None:
        self.groups: list[tuple[str, str]] = []

    def add(self, groups: Any) -> None:
        self.groups += groups


class Bench:
    """A batch writer, and every ack that it has delivered."""

    def __init__(self, batch: int = 4, **admission: Any) -> None:
        self.queue, self.recent_acks = ScriptedQueue(), ScriptedRecentAcks()
        self.acks: list[pb.Ack] = []
        self._news = asyncio.Event()
        self.gate = AdmissionGate(AdmissionConfig(**admission), self.queue, self.queue)  # pyright: ignore[reportArgumentType]
        self.writer = BatchWriter(self.queue, self.gate, batch, self.recent_acks, GatewayMetrics(GatewayHealth()))  # pyright: ignore[reportArgumentType]

    def submit(self, fleet: str, name: str) -> PendingSubmit:
        group = Append(fleet, name, b"payload", 1, 1, 2, 0.0)
        return PendingSubmit(fleet, pb.Ack(group_id=name), self._deliver, group)

    async def run(self, *submits: tuple[str, str]) -> list[str]:
        """Puts (fleet, name) in line and runs until all are acknowledged; returns the ids in the order of their acks."""
        start = len(self.acks)
        for fleet, name in submits:
            self.writer.put(self.submit(fleet, name))
        task = asyncio.create_task(self.writer.run())
        async with asyncio.timeout(60):
            while len(self.acks) < start + len(submits):
                self._news.clear()
                await self._news.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [ack.group_id for ack in self.acks[start:]]

    def _deliver(self, ack: pb.Ack) -> None:
        self.acks.append(ack)
        self._news.set()


async def test_fleets_take_turns_and_keep_their_own_order():
    bench = Bench(batch=4)
    flood = [("flood", f"f{i}") for i in range(8)]
    await bench.run(*flood, ("a", "a0"), ("a", "a1"), ("b", "b0"))
    assert bench.queue.flushes[0] == ["f0", "a0", "b0", "f1"]
    assert [one for flush in bench.queue.flushes for one in flush if one[0] == "f"] == [f"f{i}" for i in range(8)]
    assert [one for flush in bench.queue.flushes for one in flush if one[0] == "a"] == ["a0", "a1"]
    assert {ack.outcome for ack in bench.acks} == {ACCEPTED}
    assert len(bench.recent_acks.groups) == 11


async def test_a_fleet_without_rates_is_not_asked_about():
    bench = Bench(quotas={"limited": QuotaConfig(groups_per_s=1)})
    await bench.run(("free", "x"), ("limited", "y"), ("free", "z"))
    assert bench.queue.asked == [("limited", 1)]


async def test_the_excess_gets_turns_and_what_follows_is_not_even_asked_about():
    bench = Bench(batch=4, quota=QuotaConfig(groups_per_s=0.2))
    bench.queue.permits = lambda groups: Permit(1, 20.0)
    await bench.run(*[("a", f"a{i}") for i in range(3)])
    assert [ack.outcome for ack in bench.acks] == [ACCEPTED, RETRY, RETRY]
    assert [ack.reason for ack in bench.acks[1:]] == ["quota_rate"] * 2
    first, second = (ack.retry_after_ms for ack in bench.acks[1:])
    assert 10_000 < first <= 20_000
    assert second - first == 5_000
    late = bench.submit("a", "late")
    assert bench.gate.refuse(late, lambda: 7)
    assert late.ack.retry_after_ms > second
    assert not bench.gate.refuse(bench.submit("b", "other"), lambda: 7)
    await bench.run(("a", "again"))
    assert len(bench.queue.asked) == 1
    assert bench.queue.flushes == [["a0"], []]


async def test_refusals_are_counted_by_reason():
    bench = Bench(quota=QuotaConfig(groups_per_s=1))
    bench.queue.permits = lambda _: Permit(0, 1.0)
    await bench.run(("a", "x"), ("a", "y"))
    assert bench.queue.counts[0] == {"a": {"received": 2, "retried": 2, "retried:quota_rate": 2}}


async def test_one_flush_does_not_run_past_a_cap():
    bench = Bench(batch=8, quota=QuotaConfig(max_queued_groups=3))
    await bench.run(*[("a", f"a{i}") for i in range(5)], ("b", "b0"))
    assert [ack.reason for ack in bench.acks if ack.outcome == RETRY] == ["quota_backlog"] * 2
    assert sorted(bench.queue.flushes[0]) == ["a0", "a1", "a2", "b0"]


async def test_rates_that_cannot_be_asked_are_an_outage_for_their_fleet_only():
    bench = Bench(quotas={"a": QuotaConfig(groups_per_s=1)})

    def unavailable(_: int) -> Permit:
        raise UnavailableError("gone")

    bench.queue.permits = unavailable
    await bench.run(("a", "x"), ("b", "y"))
    assert {ack.group_id: ack.reason for ack in bench.acks} == {"x": "queue_unavailable", "y": ""}


async def test_after_a_failed_flush_redis_is_left_alone_for_a_while():
    bench = Bench()
    bench.queue.backlog = None
    await bench.run(("a", "x"))
    await bench.run(("a", "y"))
    assert [ack.reason for ack in bench.acks] == ["queue_unavailable"] * 2
    assert bench.queue.flushes == [["x"]]
    assert bench.recent_acks.groups == []
