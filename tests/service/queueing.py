"""Helpers for tests of the queue: append, lease, begin, and read the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis

from learner.config import QueueConfig
from learner.queue import Allowance, Append, Appended, GatewayQueue, LearnerQueue, LeaseWish, imbalances, read_ledgers
from leeway.v1 import rollout_pb2 as pb

Open = Callable[[], LearnerQueue]


def append(group: pb.Group, fleet: str = "alpha", tokens: int = 14, lease_id: str = "") -> Append:
    size = len(group.responses)
    versions = tuple({span.version for response in group.responses for span in response.spans})
    return Append(fleet, group.group_id, group.SerializeToString(), tokens, 8, size, 0.5, versions, lease_id)


async def feed(
    queue: GatewayQueue, groups: Sequence[pb.Group], fleet: str = "alpha", tokens: int = 14
) -> list[Appended]:
    flushed = await queue.flush([append(group, fleet, tokens) for group in groups], {}, [])
    return flushed.outcomes


def begun(open_learner: Open, resumed_step: int = 0, versions: Sequence[int] = (0,)) -> LearnerQueue:
    """Opens and begins a learner, and publishes each version v at step v."""
    learner = open_learner()
    learner.begin(resumed_step, [])
    for version in versions:
        learner.publish(pb.Policy(version=version, step=version, epoch=learner.epoch))
    return learner


def ledger(config: QueueConfig, fleet: str = "alpha") -> pb.Ledger:
    """Reads the fleet's ledger, and checks that the ledgers of all fleets balance."""
    ledgers = read_ledgers(config.url, config.run)
    assert [violation for one in ledgers for violation in imbalances(one)] == []
    return next(one for one in ledgers if one.fleet == fleet)


def client(config: QueueConfig) -> redis.Redis:
    return redis.Redis.from_url(config.url)


def ids(taken: Sequence) -> list[str]:
    return [one.ref.group_id for one in taken]


def wish(lease_id: str, groups: int, fleet: str = "alpha", lifetime_s: float = 60.0, **more) -> LeaseWish:
    return LeaseWish(fleet, lease_id, groups, lifetime_s, **{"worker": "w", "running_version": None, **more})


async def lease(queue: GatewayQueue, wanted: LeaseWish, bound: int) -> int:
    """Grants a lease as a gateway does when no fleet is limited to a share."""
    await queue.leases.occupancy()
    return await queue.leases.grant(wanted, Allowance(bound, bound))
