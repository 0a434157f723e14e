"""Promises of capacity, kept in Redis: every gateway of a run gives from the same store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from learner.queue.keys import Keys

Call = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]


@dataclass(frozen=True)
class LeaseWish:
    """A worker's wish for capacity."""

    fleet: str
    lease_id: str
    groups: int
    lifetime_s: float
    worker: str
    running_version: int | None
    returned: Sequence[str] = ()


@dataclass(frozen=True)
class Occupancy:
    """Who holds what of the capacity, at one instant."""

    step: int  # the learner's
    held: dict[str, int]  # fleet -> groups that are promised, queued, or in flight and not stepped on yet
    hungry: frozenset[str]  # fleets that asked for more than they got, within the last seconds


class Leases:
    """A gateway's hold on the run's promises. All methods raise QueueError or a subclass.

    Time is Redis's own, made monotone: it never goes back, and never forward by more than five seconds between two
    looks at it. A clock that is set changes the life of a promise by no more than that. Every gateway looks once a second.

    Args:
        keys: the run's.
        call: runs one script.
        clock_offset_ms: added to Redis's clock. For tests: as if that clock had been set.
    """

    def __init__(self, keys: Keys, call: Call, clock_offset_ms: Callable[[], int] = lambda: 0) -> None:
        self._keys = keys
        self._call = call
        self._clock_offset_ms = clock_offset_ms

    async def occupancy(self) -> Occupancy:
        """Looks at the clock, takes back promises that are over, and says what is held then."""
        keys = self._keys
        names = [keys.fleets, keys.leases, keys.lease_remaining, keys.progress, keys.stepped, keys.clock, keys.hungry]
        step, fleets = await self._call("occupancy", names, [keys.stream_prefix, self._clock_offset_ms()])
        held = {name.decode(): max(0, count) for name, count in zip(fleets[::3], fleets[1::3], strict=True)}
        hungry = [name.decode() for name, hungry in zip(fleets[::3], fleets[2::3], strict=True) if hungry]
        return Occupancy(int(step), held, frozenset(hungry))

    async def grant(self, wish: LeaseWish, bound: int, share: int) -> int:
        """Promises capacity to a fleet: how many groups, 0 to what it asked for.

        Args:
            wish: who asks for how much.
            bound: the most groups that may be held, over all fleets and gateways. Never exceeded by a promise.
            share: the most that this fleet may hold.
        """
        keys = self._keys
        version = "" if wish.running_version is None else wish.running_version
        # A fleet can use and give back its own leases only: its name is part of theirs.
        lease, *returned = [member(wish.fleet, lease_id) for lease_id in (wish.lease_id, *wish.returned)]
        names = [
            keys.fleets,
            keys.stream(wish.fleet),
            keys.leases,
            keys.lease_remaining,
            keys.progress,
            keys.running(wish.fleet),
            keys.stepped,
            keys.clock,
            keys.hungry,
        ]
        arguments = [wish.fleet, lease, wish.groups, int(wish.lifetime_s * 1000), bound, share, wish.worker, version]
        return await self._call("lease", names, [*arguments, keys.stream_prefix, *returned])


def member(fleet: str, lease_id: str) -> str:
    """A lease's name in Redis."""
    return f"{fleet}/{lease_id}"
