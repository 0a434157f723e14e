"""The orderly end of a chaos run: every group acknowledged, trained or expired, and committed."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import redis

from learner.queue.keys import Keys
from tests.chaos.account import Account, Id
from tests.chaos.stack import RUN, Stack

_LIMIT_S = 240.0
_QUIET_S = 4.0  # without a step for so long, the learner has less than a batch
_MOST_STEPS = 4  # learner.refill.most: by then a step is made, whatever its groups are


def drain(stack: Stack) -> None:
    """Stops the fleets, lets the learner train what waits, then stops it. Raises AssertionError if one of them does not end.

    The last groups are fewer than a batch: a few more, logged like any other, fill it up. If the step does not come, because
    groups are missing, the account has to say so.
    """
    for name in {"worker", "villains"} & stack.members.keys():
        stack.members[name].end(20)
    stack.stop_producers(_LIMIT_S)
    stack.until(_Quiet(stack), "rest of the learner", _LIMIT_S)
    # One by one: a step is made with the group that makes it complete, which may be any of those that have a contrast.
    for _ in range(_MOST_STEPS * stack.plan.groups_per_step):
        if not waiting(stack) - set(Account.read(stack.directory).trained):
            break
        stack.add_groups(1, _LIMIT_S)
        stack.until(_Quiet(stack), "rest of the learner", _LIMIT_S)
    status = stack.members["learner"].end(60)
    if status != 0:
        raise AssertionError(f"the learner's clean end had exit status {status}\n{stack.tails()}")


def waiting(stack: Stack) -> set[Id]:
    """Ids of the groups in the stack's streams, taken or not."""
    with contextlib.closing(redis.Redis.from_url(stack.redis_url)) as client:
        return groups_in(client, RUN)


def groups_in(client: redis.Redis, run: str) -> set[Id]:
    """Ids of the groups in a run's streams, taken or not."""
    prefix = Keys(run).stream_prefix
    found: set[Id] = set()
    for key in client.scan_iter(prefix + "*"):
        entries: Any = client.xrange(key)
        fleet = key.decode().removeprefix(prefix)
        found |= {(fleet, fields[b"id"].decode()) for _, fields in entries}
    return found


class _Quiet:
    """A condition that holds once a learner has begun and no step has been made for a while."""

    def __init__(self, stack: Stack, seconds: float = _QUIET_S) -> None:
        self._stack = stack
        self._seconds = seconds
        self._seen = (-1, 0.0)

    def __call__(self) -> bool:
        steps, since = self._seen
        alive = self._stack.watch.begun > self._stack.members["learner"].started_at
        if steps != self._stack.watch.steps or not alive:
            self._seen = (self._stack.watch.steps, time.monotonic())
            return False
        return time.monotonic() - since > self._seconds
