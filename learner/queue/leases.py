"""Leases: promises of queue capacity to fleets, kept in Redis so that all gateways of a run grant from one store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from learner.queue.keys import Keys

Call = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]


@dataclass(frozen=True)
class LeaseWish:
    """A worker's request for capacity.

    Attributes:
        fleet: the worker's fleet.
        lease_id: id of the lease to grant.
        groups: how many groups the worker wants to submit.
        lifetime_s: seconds until the lease expires.
        worker: the worker's name.
        running_version: version of the weights the worker generates with; None if it did not say.
        returned: ids of leases that the worker gives back.
    """

    fleet: str
    lease_id: str
    groups: int
    lifetime_s: float
    worker: str
    running_version: int | None
    returned: Sequence[str] = ()


@dataclass(frozen=True)
class Occupancy:
    """How much of the capacity each fleet occupies, at one instant."""

    step: int  # optimizer steps the learner has done
    occupied: dict[str, int]  # fleet -> groups that are promised, queued, or in flight and not trained on yet
    hungry: frozenset[str]  # fleets that asked for more than they got within the last 3 seconds


class Leases:
    """A gateway's access to the run's leases. All methods raise QueueError or a subclass.

    Leases expire by Redis's clock, made monotone: it never goes back, and advances by at most five seconds between two
    calls of ``occupancy``, which every gateway makes once a second. Setting the machine's clock therefore changes the life
    of a lease by no more than that.

    Args:
        keys: the run's keys.
        call: runs one script.
        clock_offset_ms: added to Redis's clock, for tests that set the clock.
    """

    def __init__(self, keys: Keys, call: Call, clock_offset_ms: Callable[[], int] = lambda: 0) -> None:
        self._keys = keys
        self._call = call
        self._clock_offset_ms = clock_offset_ms

    async def occupancy(self) -> Occupancy:
        """Advances the clock, takes back leases that have expired, and returns what is occupied then."""
        keys = self._keys
        names = [keys.fleets, keys.leases, keys.lease_remaining, keys.progress, keys.stepped, keys.clock, keys.hungry]
        step, fleets = await self._call("occupancy", names, [keys.stream_prefix, self._clock_offset_ms()])
        occupied = {name.decode(): max(0, count) for name, count in zip(fleets[::3], fleets[1::3], strict=True)}
        hungry = [name.decode() for name, hungry in zip(fleets[::3], fleets[2::3], strict=True) if hungry]
        return Occupancy(int(step), occupied, frozenset(hungry))

    async def grant(self, wish: LeaseWish, bound: int, share: int) -> int:
        """Grants a lease.

        Args:
            wish: the request.
            bound: the most groups that all fleets together may occupy. No lease exceeds it.
            share: the most groups that this fleet may occupy.

        Returns:
            How many groups were granted, 0 to ``wish.groups``.
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
    """Returns a lease's name in Redis."""
    return f"{fleet}/{lease_id}"
