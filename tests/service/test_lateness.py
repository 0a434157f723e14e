"""Tests of late groups on a real Redis: what obeys its leases does not expire, and what expires is not read."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import redis

from learner.config import AdmissionConfig, QueueConfig
from learner.gateway.lease_limit import within_age
from learner.gateway.lease_shares import LeaseShares
from learner.gateway.version_ages import VersionAges
from learner.queue import GatewayQueue, LearnerQueue, Timeline
from learner.queue.histogram import histogram_fields
from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2 as pb
from tests.service.conftest import publish
from tests.service.fleet import RUN, eventually, valid_group
from tests.service.queueing import append, begun, client, feed, ids, ledger, wish

GROUPS, MAX_STALENESS = 4, 3


def forget_payloads(raw: redis.Redis, *group_ids: str) -> None:
    """Deletes payloads, so that a learner that needs one counts its group as lost."""
    assert raw.delete(*(Keys(RUN).payload("alpha", one) for one in group_ids)) == len(group_ids)


async def test_groups_expire_by_their_entries_alone(config, gateway_queue, open_learner):
    learner = begun(open_learner, versions=range(10))
    stale, mixed, fresh = valid_group(0), valid_group(9), valid_group(8)
    mixed.responses[1].spans[0].version = 2
    await feed(gateway_queue, [stale, mixed, fresh])
    with client(config) as raw:
        forget_payloads(raw, stale.group_id, mixed.group_id)
    assert [(one.ref.group_id, one.staleness) for one in learner.take(5, 9, 4)] == [(fresh.group_id, 1)]
    found = ledger(config)
    assert (found.expired, found.lost) == (2, 0)


async def test_the_fields_of_the_histogram_are_those_of_the_script(config, gateway_queue, open_learner):
    learner = begun(open_learner, versions=range(10))
    lengths = [1, 1.5, 2, 3.5, 4, 4.5, 1000, 65_536, 65_536.5]
    rewards = [-3.0, -1.0, -0.05, 0.0, 0.3, 0.95, 1.0, 1.9, 2.0, 1e18, -1e18]
    expected: Counter[str] = Counter()
    for length, reward in [(length, 0.5) for length in lengths] + [(8, reward) for reward in rewards]:
        group = replace(append(valid_group(0)), generated=int(2 * length), responses=2, reward=reward)
        await gateway_queue.flush([group], {}, [])
        expected.update(histogram_fields("expired", length, reward))
    assert learner.take(99, 9, 4) == []
    with client(config) as raw:
        fields: Any = raw.hgetall(Keys(RUN).ledger("alpha"))
    found = {name.decode(): int(count) for name, count in fields.items()}
    assert {name: count for name, count in found.items() if name.startswith(("length:", "reward:"))} == expected


async def test_groups_that_a_dead_learner_had_in_flight_expire_by_their_entries_alone(
    config, gateway_queue, open_learner
):
    dead = begun(open_learner, versions=[0, 1])
    groups = [valid_group(0), valid_group(1)]
    await feed(gateway_queue, groups)
    assert len(dead.take(2, 1, 4)) == 2
    learner = begun(open_learner, resumed_step=5, versions=[])
    with client(config) as raw:
        forget_payloads(raw, groups[0].group_id)
    assert ids(learner.take(2, 5, 4)) == [groups[1].group_id]
    found = ledger(config)
    assert (found.expired, found.lost) == (1, 0)


class FastFleet:
    """A fleet that obeys its leases and is faster than the learner: it always submits all that it may.

    Its engines load a version ``lag`` steps after it was published: sometimes sooner, as downloads go.
    """

    def __init__(self, queue: GatewayQueue, expire_after: int, lag: int) -> None:
        self._queue = queue
        self._lag = lag
        self._admission = AdmissionConfig(
            groups_per_step=GROUPS, max_staleness=MAX_STALENESS, expire_after=expire_after
        )
        self._shares = LeaseShares(self._admission)
        self._ages = VersionAges(expire_after)

    def announced(self, policy: pb.Policy) -> None:
        self._ages.add([policy], [Timeline(1, 0)] if policy.version == 0 else None)

    async def fill(self, step: int) -> None:
        """Leases and submits, a group at a time, until it is granted nothing more."""
        version = max(0, step - (self._lag if step % 3 else 1))
        for number in range(100):
            lease_id = f"{step}-{number}"
            occupancy = await self._queue.leases.occupancy()
            allowance = within_age(
                self._shares.allowance("alpha", occupancy), self._ages.steps_left(version, occupancy.step), GROUPS
            )
            asked = wish(lease_id, 1, running_version=version)
            if not await self._queue.leases.grant(asked, allowance):
                return
            await self._queue.flush([append(valid_group(version), lease_id=lease_id)], {}, [])
        raise AssertionError("leases are granted without end")


async def train(learner: LearnerQueue, fleet: FastFleet, steps: int, expire_after: int) -> int:
    """Trains and commits each step's groups, and takes the next step's before that; returns how many were late."""
    late = 0
    fleet.announced(pb.Policy(version=0, step=0, epoch=1))
    await fleet.fill(0)
    taken = learner.take(GROUPS, 0, expire_after)
    for step in range(1, steps):
        following = learner.take(GROUPS, step, expire_after)
        learner.report(step, step, len(taken))
        learner.commit(step, [one.ref for one in taken])
        await fleet.fill(step)  # the version of this step is not announced yet
        policy = pb.Policy(version=step, step=step, epoch=1)
        learner.publish(policy)
        fleet.announced(policy)
        taken = following + learner.take(GROUPS - len(following), step, expire_after)
        assert len(taken) == GROUPS, f"the learner starves at step {step}"
        late += sum(one.staleness > MAX_STALENESS for one in taken)
    return late


@pytest.mark.parametrize("lag", [1, 2])
async def test_nothing_expires_of_a_fleet_that_obeys_its_leases(config, gateway_queue, open_learner, lag: int):
    learner, expire_after = begun(open_learner), 8 * MAX_STALENESS
    late = await train(learner, FastFleet(gateway_queue, expire_after, lag), 30, expire_after)
    assert ledger(config).expired == 0
    assert late > 0  # with late = "expire" and leases by occupancy alone, these would have been lost


@pytest.mark.parametrize("lag", [1, 2])
async def test_where_late_groups_expire_leases_heed_the_version_that_the_worker_runs(
    config, gateway_queue, open_learner, lag: int
):
    learner, expire_after = begun(open_learner), MAX_STALENESS
    late = await train(learner, FastFleet(gateway_queue, expire_after, lag), 30, expire_after)
    assert (ledger(config).expired, late) == (0, 0)


async def test_a_gateway_refuses_what_is_too_stale_and_leases_nothing_for_it(start_gateway, redis_server):
    gateway = await start_gateway(admission={"groups_per_step": 4, "max_staleness": 2, "expire_after": 3})
    config = QueueConfig(url=redis_server.url, run=RUN)
    accepted = valid_group(0)
    async with gateway.connect() as fleet:
        assert await fleet.outcomes([accepted]) == ["ACCEPTED"]
        await asyncio.to_thread(publish, redis_server.url, 1, 5)
        learner = LearnerQueue.open(config)
        learner.begin(5, [])
        learner.publish(pb.Policy(version=6, step=5, epoch=learner.epoch))
        acks = await fleet.submit([valid_group(6), valid_group(1), accepted])
        assert [(ack.outcome, ack.reason) for ack in acks] == [
            (pb.OUTCOME_ACCEPTED, ""), (pb.OUTCOME_REJECTED, "too_stale"), (pb.OUTCOME_DUPLICATE, "")
        ]  # fmt: skip
        assert acks[1].field == "responses[0].spans[0].version"
        assert acks[1].value == "version 1, 4 steps stale (allowed: at most 3 (expire_after))"
        assert (await fleet.lease(4, running_version=1)).groups == 0
        assert (await fleet.lease(4, running_version=6)).groups == 4
        found = await eventually(fleet.ledger, lambda ledger: ledger.rejected)
    assert dict(found.rejected_by_reason) == {"too_stale": 1}
    dropped = [bucket for bucket in found.histogram if bucket.outcome == "too_stale"]
    assert [(bucket.measure, bucket.lower, bucket.upper, bucket.count) for bucket in dropped] == [
        (pb.MEASURE_LENGTH, 2, 4, 1), (pb.MEASURE_REWARD, 0.5, 0.6, 1)
    ]  # fmt: skip
    learner.close()
