"""Helpers for tests of the queue: append, lease, begin, and read the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import redis

from learner.config import QueueConfig
from learner.queue import (
    Allowance,
    Append,
    Appended,
    GatewayQueue,
    Kind,
    LearnerQueue,
    LeaseWish,
    imbalances,
    read_ledgers,
)
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import valid_group

Open = Callable[[], LearnerQueue]


def append(group: pb.Group, fleet: str = "alpha", tokens: int = 14, lease_id: str = "") -> Append:
    size = len(group.responses)
    versions = tuple({span.version for response in group.responses for span in response.spans})
    reward = None if all(response.unscored for response in group.responses) else 0.5
    reasons = Counter(response.unscored for response in group.responses if response.unscored)
    payload, kind = group.SerializeToString(), kind_of(group)
    sizes = (tokens, 8, size)
    return Append(
        fleet, group.group_id, payload, *sizes, reward, versions, lease_id, kind, tuple(sorted(reasons.items()))
    )


def kind_of(group: pb.Group) -> Kind:
    """What a group is counted as when it is trained, by the contract's comments on the ledger."""
    rewards = [response.reward for response in group.responses if not response.unscored]
    if len(rewards) < 2:
        return "unscored"
    return "without_contrast" if min(rewards) == max(rewards) else ""


def group_of_kind(kind: str, version: int = 0, reason: str = "judge") -> pb.Group:
    """Makes a group of two responses that differ in their reward, are equal in it, or have none."""
    group = valid_group(version)
    for response in group.responses:
        response.reward = 0.0 if kind == "without_contrast" else response.reward
        response.unscored = reason if kind == "unscored" else ""
    return group


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
