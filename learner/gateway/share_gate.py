"""Keeps fleets that submit without leases within their shares beside fleets that use leases."""

from __future__ import annotations

from collections.abc import Sequence

from learner.config import AdmissionConfig
from learner.gateway.lease_shares import LeaseShares
from learner.gateway.pending_submit import PendingSubmit
from learner.gateway.retry_reasons import OVER_SHARE, QUEUE_UNAVAILABLE, retry
from learner.queue import Leases, Occupancy, QueueError


class ShareGate:
    """Lets groups pass that a lease covers, and of the others as many as their fleet's share has space for.

    While no other fleet uses leases, every group passes. The shares are those of the occupancy that this gateway has read
    last, which is about a second old at most; what it has let pass since then is counted here, what others have is not.

    Args:
        config: the bound and the weights.
        leases: the run's leases.
    """

    def __init__(self, config: AdmissionConfig, leases: Leases) -> None:
        self._shares = LeaseShares(config)
        self._leases = leases
        self._seen: Occupancy | None = None
        self._room: dict[str, float] = {}  # fleet -> groups without a lease that may pass by the occupancy in _seen

    def configure(self, config: AdmissionConfig) -> None:
        """Takes other weights."""
        self._shares = LeaseShares(config)

    async def admit(self, submits: Sequence[PendingSubmit]) -> list[PendingSubmit]:
        """Returns the submits that may be appended, in their order. The acks of the others become RETRY."""
        doubtful: dict[str, list[PendingSubmit]] = {}
        refused: set[int] = set()
        for submit in submits:
            lease_id = submit.group.lease_id if submit.group is not None else ""
            if (lease_id and self._leases.spend(submit.fleet, lease_id)) or self._enter(submit.fleet):
                continue
            refused.add(id(submit))
            if lease_id:
                doubtful.setdefault(submit.fleet, []).append(submit)
            else:
                retry(submit.ack, OVER_SHARE)
        for fleet, own in doubtful.items():
            refused.difference_update(map(id, await self._covered(fleet, own)))
        return [submit for submit in submits if id(submit) not in refused]

    def _enter(self, fleet: str) -> bool:
        """Whether the fleet's share has space for one more group without a lease; if it has, the space is taken."""
        seen = self._leases.seen
        if seen is None:
            return True
        if seen is not self._seen:
            self._seen, self._room = seen, {}
        if fleet not in self._room:
            self._room[fleet] = self._shares.room(fleet, seen)
        self._room[fleet] -= 1
        return self._room[fleet] >= 0

    async def _covered(self, fleet: str, submits: Sequence[PendingSubmit]) -> list[PendingSubmit]:
        """Returns those of a fleet's groups that a lease covers by what Redis knows; the acks of the others become RETRY."""
        try:
            covered = await self._leases.covered(fleet, [one.group.lease_id if one.group else "" for one in submits])
        except QueueError:
            for submit in submits:
                retry(submit.ack, QUEUE_UNAVAILABLE)
            return []
        for submit, passes in zip(submits, covered, strict=True):
            if not passes:
                retry(submit.ack, OVER_SHARE)
        return [submit for submit, passes in zip(submits, covered, strict=True) if passes]
