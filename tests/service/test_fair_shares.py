"""An honest fleet beside one that ignores leases and one that hoards them: real gateway and Redis, a learner by rounds."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, Fleet, GatewayProcess, valid_group, write_identities

Start = Callable[..., Awaitable[GatewayProcess]]
STEP, STALENESS, ROUNDS = 8, 3, 40
FLEETS = ("flood", "hoard", "honest")


async def flood(fleet: Fleet, version: int) -> Counter[str]:
    """Submits four steps' worth of groups without a lease. Returns the reasons why some were not accepted."""
    acks = await fleet.submit([valid_group(version) for _ in range(4 * STEP)])
    return Counter(ack.reason for ack in acks if ack.outcome != pb.OUTCOME_ACCEPTED)


async def obey(fleet: Fleet, version: int) -> int:
    """Asks for leases until nothing more is granted, and submits what they allow."""
    made = 0
    while (lease := await fleet.lease(1000)).groups:
        acks = await fleet.submit([valid_group(version) for _ in range(lease.groups)], lease.lease_id)
        assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
        made += lease.groups
    return made


async def train(queue: LearnerQueue, step: int) -> Counter[str]:
    """Takes one step's groups, commits them and publishes a version. Returns the groups taken by fleet."""
    taken = await asyncio.to_thread(queue.take, STEP, step - 1, STALENESS)
    await asyncio.to_thread(queue.commit, step, [one.ref for one in taken])
    await asyncio.to_thread(queue.report, step, step, 0)
    await asyncio.to_thread(queue.publish, pb.Policy(version=step, step=step, epoch=queue.epoch))
    return Counter(one.ref.fleet for one in taken)


@pytest.mark.parametrize("first", ["flood", "hoard"])
async def test_an_honest_fleet_keeps_its_share_beside_a_flood_and_a_hoarder(
    start_gateway: Start, redis_server: EmbeddedRedis, first: str
):
    """Whichever takes everything first. The learner serves those that have groups, so half of it is the honest fleet's."""
    gateway = await start_gateway(admission={"groups_per_step": STEP, "max_staleness": STALENESS})
    tokens = {name: f"{name}-secret" for name in FLEETS}
    entries: dict[str, Any] = {name: {"tokens": [hashlib.sha256(t.encode()).hexdigest()]} for name, t in tokens.items()}
    write_identities(gateway.identities_file, entries)
    learner = LearnerQueue.open(QueueConfig(url=redis_server.url, run=RUN))
    learner.begin(0, [])
    trained: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    fleets = [gateway.connect(token) for token in tokens.values()]
    flooding, hoarding, honest = fleets
    if first == "hoard":
        assert (await hoarding.lease(1000)).groups == STEP * (STALENESS + 1)
    for step in range(1, ROUNDS + 1):
        reasons += await flood(flooding, step - 1)
        await hoarding.lease(1000)
        await obey(honest, step - 1)
        trained += await train(learner, step)
    share = trained["honest"] / (trained.total() / 2)
    ledgers = {one.fleet: one for one in read_ledgers(redis_server.url, RUN)}
    for fleet in fleets:
        await fleet.channel.close()
    learner.close()
    print(first, share, trained, reasons, {name: (one.accepted, one.expired) for name, one in ledgers.items()})
    assert share >= 0.9
    assert ledgers["honest"].expired == 0  # those who obey stay within the bound on staleness
    assert set(reasons) == {"over_share"}
    assert ledgers["flood"].retried_by_reason["over_share"] == reasons["over_share"]
