"""The share gate against scripted leases: who passes without a lease, beside whom, and what Redis is asked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from learner.config import AdmissionConfig
from learner.gateway.pending_submit import PendingSubmit
from learner.gateway.share_gate import ShareGate
from learner.queue import Append, Occupancy, UnavailableError
from leeway.v1 import rollout_pb2 as pb

COMPETING = Occupancy(0, {"flood": 40, "a": 10}, frozenset({"a"}), unleased={"flood": 40})


class ScriptedLeases:
    """Knows the groups left of ``own`` leases without asking, and of ``redis`` ones by asking."""

    def __init__(self, seen: Occupancy | None) -> None:
        self.seen = seen
        self.own: dict[str, int] = {}
        self.redis: set[str] | None = set()
        self.asked: list[list[str]] = []

    def spend(self, _: str, lease_id: str) -> bool:
        self.own[lease_id] = self.own.get(lease_id, 0) - 1
        return self.own[lease_id] >= 0

    async def covered(self, _: str, lease_ids: Sequence[str]) -> list[bool]:
        self.asked.append(list(lease_ids))
        if self.redis is None:
            raise UnavailableError("redis is away")
        return [lease_id in self.redis for lease_id in lease_ids]


def submits(fleet: str, *lease_ids: str) -> list[PendingSubmit]:
    return [
        PendingSubmit(fleet, pb.Ack(), lambda _: None, Append(fleet, str(i), b"x", 1, 1, 2, lease_id=lease_id))
        for i, lease_id in enumerate(lease_ids)
    ]


async def admit(leases: ScriptedLeases, asked: list[PendingSubmit]) -> list[str]:
    """Returns the reason of each submit's RETRY, "" for those that pass."""
    gate = ShareGate(AdmissionConfig(groups_per_step=80, max_staleness=0), leases)  # pyright: ignore[reportArgumentType]
    return await admitted(gate, asked)


async def admitted(gate: ShareGate, asked: list[PendingSubmit]) -> list[str]:
    passed = await gate.admit(asked)
    assert [id(one) for one in passed] == [id(one) for one in asked if not one.ack.reason]
    return [one.ack.reason for one in asked]


@pytest.mark.parametrize(
    "seen",
    [
        None,
        Occupancy(0, {"flood": 1000}, frozenset()),
        Occupancy(0, {"flood": 1000}, frozenset({"flood"})),  # only it waits
        Occupancy(0, {"flood": 1000, "a": 70}, frozenset(), unleased={"flood": 1000, "a": 70}),  # nobody uses leases
        Occupancy(0, {"flood": 35}, frozenset({"a"})),  # its share has space
    ],
)
async def test_a_fleet_that_takes_nothing_from_another_may_send_without_leases(seen: Occupancy | None):
    assert await admit(ScriptedLeases(seen), submits("flood", "", "", "")) == ["", "", ""]


@pytest.mark.parametrize("used", [5, 75])
async def test_a_fleet_that_has_all_it_asked_for_keeps_it(used: int):
    """Counts its groups, which came with leases, against the bound: the flood may fill what they leave and no more."""
    leases = ScriptedLeases(Occupancy(0, {"a": used, "flood": 3}, frozenset(), unleased={"flood": 3}, use={"a": 1.0}))
    reasons = await admit(leases, submits("flood", *[""] * 80))
    assert reasons.count("") == 80 - used - 3


async def test_beyond_its_share_a_fleet_without_leases_is_told_to_come_back():
    flood = submits("flood", "", "")
    assert await admit(ScriptedLeases(COMPETING), flood) == ["over_share", "over_share"]
    assert {one.ack.outcome for one in flood} == {pb.OUTCOME_RETRY}
    assert {one.ack.retry_after_ms for one in flood} == {1000}
    assert await admit(ScriptedLeases(COMPETING), submits("a", "", "")) == ["", ""]


async def test_what_has_passed_since_the_last_look_counts():
    leases = ScriptedLeases(Occupancy(0, {"flood": 37}, frozenset({"a"})))
    gate = ShareGate(AdmissionConfig(groups_per_step=80, max_staleness=0), leases)  # pyright: ignore[reportArgumentType]
    assert await admitted(gate, submits("flood", "", "")) == ["", ""]
    assert await admitted(gate, submits("flood", "", "", "")) == ["", "over_share", "over_share"]
    leases.seen = Occupancy(1, {"flood": 38}, frozenset({"a"}))
    assert await admitted(gate, submits("flood", "", "", "")) == ["", "", "over_share"]


async def test_a_valid_lease_always_passes():
    leases = ScriptedLeases(COMPETING)
    leases.own, leases.redis = {"mine": 2}, {"other gateway's"}
    asked = submits("flood", "mine", "", "other gateway's", "mine", "mine", "invented")
    assert await admit(leases, asked) == ["", "over_share", "", "", "over_share", "over_share"]
    assert leases.asked == [["other gateway's", "mine", "invented"]]  # one question, and only about what is not known


async def test_nothing_is_asked_while_there_is_space():
    leases = ScriptedLeases(Occupancy(0, {"flood": 37}, frozenset({"a"})))
    assert await admit(leases, submits("flood", "invented", "late")) == ["", ""]
    assert leases.asked == []


async def test_without_redis_a_doubtful_group_waits():
    leases = ScriptedLeases(COMPETING)
    leases.redis = None
    assert await admit(leases, submits("flood", "x", "")) == ["queue_unavailable", "over_share"]
