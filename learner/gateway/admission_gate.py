"""Who may pass to the queue now: the backlog's caps, then the fleets' rates. Who may not gets RETRY."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from learner.config import AdmissionConfig
from learner.gateway.backlog_caps import BacklogCaps
from learner.gateway.pending_submit import RATE, UNAVAILABLE, PendingSubmit, retry
from learner.gateway.quota import Quotas
from learner.queue import Append, Backlog, QueueError, Rates


class AdmissionGate:
    """Lets arrivals pass, or makes their acks RETRY with a delay.

    Args:
        config: caps and quotas.
        rates: the token buckets that all gateways share.
    """

    def __init__(self, config: AdmissionConfig, rates: Rates) -> None:
        self._quotas = Quotas(config.quota, config.quotas)
        self._admission = BacklogCaps(config, self._quotas)
        self._rates = rates
        self._backlog: dict[str, Backlog] = {}

    def update(self, backlog: Mapping[str, Backlog]) -> None:
        """What Redis says is in the queue."""
        self._backlog = dict(backlog)

    def refuse(self, arrival: PendingSubmit, size: Callable[[], int]) -> bool:
        """Turns a group away at once if its fleet is over its rate; nothing is asked of Redis.

        Args:
            arrival: its ack becomes RETRY then.
            size: computes the group's bytes, which costs something.
        """
        now = time.monotonic()
        if not self._quotas.closed(arrival.fleet, now):
            return False
        retry(arrival.ack, RATE, self._quotas.turn(arrival.fleet, now, size()))
        return True

    async def admit(self, arrivals: Sequence[PendingSubmit]) -> tuple[list[PendingSubmit], list[Append]]:
        """Those that may be appended now, in their order, and their groups. The others' acks say RETRY."""
        roomy = [(arrival, arrival.group) for arrival in arrivals if arrival.group is not None and self._room(arrival)]
        limited: dict[str, list[PendingSubmit]] = {}
        for arrival, _ in roomy:
            if self._quotas.has_rate(arrival.fleet):
                limited.setdefault(arrival.fleet, []).append(arrival)
        refused: set[int] = set()
        for fleet, own in limited.items():
            passed = await self._passed(fleet, own)
            refused.update(map(id, own[passed:]))
        admitted = [(arrival, group) for arrival, group in roomy if id(arrival) not in refused]
        return [arrival for arrival, _ in admitted], [group for _, group in admitted]

    def _room(self, arrival: PendingSubmit) -> bool:
        reason = self._admission.refusal(arrival.fleet, self._backlog)
        if reason is not None:
            retry(arrival.ack, reason)
            return False
        if arrival.group is not None:
            # Counted as if it were there, until Redis says what is: one flush must not run past a cap.
            one = self._backlog.get(arrival.fleet, Backlog(0, 0, 0))
            size = one.bytes + len(arrival.group.payload)
            self._backlog[arrival.fleet] = Backlog(one.queued + 1, one.groups + 1, size)
        return True

    async def _passed(self, fleet: str, arrivals: Sequence[PendingSubmit]) -> int:
        """How many of a fleet's arrivals its rates let pass; the rest have got their turns."""
        sizes = [len(arrival.group.payload) if arrival.group else 0 for arrival in arrivals]
        quota, passed = self._quotas.of(fleet), 0
        try:
            if not self._quotas.closed(fleet, time.monotonic()):
                permit = await self._rates.permit(fleet, quota.groups_per_s, quota.bytes_per_s, sizes)
                passed = permit.groups
                if passed < len(arrivals):
                    self._quotas.refused(fleet, time.monotonic(), permit.wait_s)
        except QueueError:
            for arrival in arrivals:
                retry(arrival.ack, UNAVAILABLE)
            return 0
        now = time.monotonic()
        for arrival, size in zip(arrivals[passed:], sizes[passed:], strict=True):
            retry(arrival.ack, RATE, self._quotas.turn(fleet, now, size))
        return passed
