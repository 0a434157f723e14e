"""Leases: promises of queue capacity to fleets, kept in Redis so that all gateways of a run grant from one store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from learner.queue.keys import Keys
from learner.queue.own_grants import OwnGrants

Call = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]
_VALUES = 7  # of each fleet in the reply of occupancy.lua


@dataclass(frozen=True)
class LeaseWish:
    """A worker's request for capacity.

    Attributes:
        fleet: the worker's fleet.
        lease_id: id of the lease to grant.
        groups: how many groups the worker wants to submit; 0 for a worker that only reports and gives back.
        lifetime_s: seconds until the lease expires.
        worker: the worker's name.
        running_version: version of the weights the worker generates with; None if it did not say.
        returned: ids of leases that the worker gives back.
        fetching_version: version that the worker is downloading; None if it downloads none.
    """

    fleet: str
    lease_id: str
    groups: int
    lifetime_s: float
    worker: str
    running_version: int | None
    returned: Sequence[str] = ()
    fetching_version: int | None = None


@dataclass(frozen=True)
class Allowance:
    """Limits of one grant, in groups.

    Attributes:
        bound: the most that all fleets together may occupy.
        share: the most that the asking fleet may occupy.
        counted: another fleet -> the most of what it occupies that counts against the bound; all for fleets not in it.
        whole: the run's bound, of which ``bound`` is less for a worker with old weights. None: the same. What such a worker
            is refused for its weights does not make its fleet hungry, or others would leave room that it may not use.
    """

    bound: int
    share: int
    counted: Mapping[str, int] = field(default_factory=dict)
    whole: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Occupancy:
    """How much of the capacity each fleet occupies, and with what, at one instant. Fleets that are left out have none.

    Attributes:
        step: optimizer steps the learner has done.
        occupied: fleet -> groups that are promised, queued, or in flight and not trained on yet.
        hungry: fleets that asked for more than they got within the last 3 seconds.
        unleased: fleet -> those of its queued groups that came without a valid lease.
        fresh: fleet -> groups promised by leases that were never renewed.
        renewed: fleet -> groups promised by renewed leases.
        use: fleet -> fraction of its promises that it lately used before they expired; absent before the first.
        consumed: groups that the learner consumes in a step, those included that it trains nothing of; 0 if it has not said.
    """

    step: int
    occupied: Mapping[str, int]
    hungry: frozenset[str]
    unleased: Mapping[str, int] = field(default_factory=dict)
    fresh: Mapping[str, int] = field(default_factory=dict)
    renewed: Mapping[str, int] = field(default_factory=dict)
    use: Mapping[str, float] = field(default_factory=dict)
    consumed: int = 0


class Leases:
    """A gateway's access to the run's leases. All methods that wait raise QueueError or a subclass.

    Leases expire by Redis's clock, made monotone: it never goes back, and advances by at most five seconds between two
    calls of ``occupancy``, which every gateway makes once a second. Setting the machine's clock therefore changes the life
    of a lease by no more than that.

    Args:
        keys: the run's keys.
        call: runs one script.
        clock_offset_ms: added to Redis's clock, for tests that set the clock.

    Attributes:
        seen: the occupancy that was read last; None before the first.
    """

    def __init__(self, keys: Keys, call: Call, clock_offset_ms: Callable[[], int] = lambda: 0) -> None:
        self._keys = keys
        self._call = call
        self._clock_offset_ms = clock_offset_ms
        self._own = OwnGrants()
        self.seen: Occupancy | None = None

    async def occupancy(self) -> Occupancy:
        """Advances the clock, takes back leases that have expired, and returns what is occupied then."""
        keys = self._keys
        names = [keys.fleets, keys.leases, keys.lease_remaining, keys.progress, keys.stepped, keys.clock, keys.hungry]
        arguments = [keys.stream_prefix, self._clock_offset_ms(), keys.ledger_prefix]
        step, consumed, flat = await self._call("occupancy", [*names, keys.lease_terms, keys.lease_account], arguments)
        rows = {flat[i].decode(): flat[i + 1 : i + _VALUES] for i in range(0, len(flat), _VALUES)}
        self.seen = Occupancy(
            step=int(step),
            consumed=int(consumed),
            occupied={fleet: max(0, row[0]) for fleet, row in rows.items()},
            hungry=frozenset(fleet for fleet, row in rows.items() if row[1]),
            unleased={fleet: row[2] for fleet, row in rows.items() if row[2]},
            fresh={fleet: row[3] for fleet, row in rows.items() if row[3]},
            renewed={fleet: row[4] for fleet, row in rows.items() if row[4]},
            use={fleet: float(row[5]) for fleet, row in rows.items() if row[5]},
        )
        return self.seen

    async def grant(self, wish: LeaseWish, allowance: Allowance) -> int:
        """Grants a lease within an allowance. Returns how many groups were granted, 0 to ``wish.groups``."""
        keys = self._keys
        version = "" if wish.running_version is None else wish.running_version
        # A fleet can use and give back its own leases only: its name is part of theirs.
        lease, *returned = [member(wish.fleet, lease_id) for lease_id in (wish.lease_id, *wish.returned)]
        names = [keys.fleets, keys.stream(wish.fleet), keys.leases, keys.lease_remaining, keys.stepped]
        names += [keys.running(wish.fleet), keys.clock, keys.hungry, keys.lease_terms, keys.lease_account]
        lifetime_ms = int(wish.lifetime_s * 1000)
        arguments = [
            wish.fleet,
            lease,
            wish.groups,
            lifetime_ms,
            allowance.bound,
            allowance.share,
            wish.worker,
            version,
            "" if wish.fetching_version is None else wish.fetching_version,
        ]
        whole = allowance.bound if allowance.whole is None else allowance.whole
        arguments += [keys.stream_prefix, whole, len(returned), *returned]
        arguments += [value for pair in allowance.counted.items() for value in pair]
        granted = await self._call("lease", names, arguments)
        for one in returned:
            self._own.forget(one)
        if granted:
            now = time.monotonic()
            self._own.note(lease, granted, now + wish.lifetime_s, now)
        return granted

    async def renew(self, fleet: str, lease_ids: Sequence[str], lifetime_s: float, longest_s: float) -> Sequence[str]:
        """Lets leases expire ``lifetime_s`` from now, but no later than ``longest_s`` after their grant.

        Returns:
            Those that could not be renewed: they have expired, are used up or given back, or are as old as they may become.
        """
        names = [self._keys.leases, self._keys.lease_terms, self._keys.clock]
        members = [member(fleet, lease_id) for lease_id in lease_ids]
        lost = await self._call("renew", names, [int(lifetime_s * 1000), int(longest_s * 1000), *members])
        return [str(lease_ids[number - 1]) for number in lost]

    def spend(self, fleet: str, lease_id: str) -> bool:
        """Counts one group against a lease that this gateway granted.

        Returns:
            Whether the lease is known to cover it. If not, only ``covered`` can tell.
        """
        return self._own.spend(member(fleet, lease_id), time.monotonic())

    async def covered(self, fleet: str, lease_ids: Sequence[str]) -> list[bool]:
        """Asks Redis which groups are covered by their leases.

        Args:
            fleet: who submits the groups.
            lease_ids: the lease of each group, in their order. A lease covers as many as it still promises.
        """
        known = list(dict.fromkeys(lease_ids))
        groups = await self._call("remaining", [self._keys.lease_remaining], [member(fleet, one) for one in known])
        left = Counter(dict(zip(known, groups, strict=True)))
        covered: list[bool] = []
        for lease_id in lease_ids:
            covered.append(left[lease_id] > 0)
            left[lease_id] -= 1
        return covered


def member(fleet: str, lease_id: str) -> str:
    """Returns a lease's name in Redis."""
    return f"{fleet}/{lease_id}"
