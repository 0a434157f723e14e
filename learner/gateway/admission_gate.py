"""Decides which groups may be appended now, by shares, backlog caps and rate quotas; acks of the others become RETRY."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from learner.config import AdmissionConfig
from learner.gateway.backlog_caps import BacklogCaps
from learner.gateway.pending_submit import PendingSubmit
from learner.gateway.quota import Quotas
from learner.gateway.retry_reasons import QUEUE_UNAVAILABLE, QUOTA_RATE, retry
from learner.gateway.share_gate import ShareGate
from learner.queue import Append, Backlog, Leases, QueueError, Rates


class AdmissionGate:
    """Admits pending submits, or makes their acks RETRY with a delay.

    Args:
        config: caps, quotas and weights.
        rates: the token buckets in Redis that all gateways share.
        leases: the run's leases.
    """

    def __init__(self, config: AdmissionConfig, rates: Rates, leases: Leases) -> None:
        self._quotas = Quotas(config.quota, config.quotas)
        self._backlog_caps = BacklogCaps(config, self._quotas)
        self._share_gate = ShareGate(config, leases)
        self._rates = rates
        self._backlog: dict[str, Backlog] = {}

    def configure(self, config: AdmissionConfig, drained: frozenset[str]) -> None:
        """Takes other caps, quotas and weights. What drained fleets have made is taken."""
        self._quotas.configure(config.quota, config.quotas)
        self._backlog_caps.configure(config)
        self._share_gate.configure(config)

    def update(self, backlog: Mapping[str, Backlog]) -> None:
        """Replaces the known backlog of every fleet by what Redis reported last."""
        self._backlog = dict(backlog)

    def refuse(self, submit: PendingSubmit, size: Callable[[], int]) -> bool:
        """Turns a group away at once if its fleet is known to be over its rate. Asks Redis nothing.

        Args:
            submit: its ack becomes RETRY if it is turned away.
            size: computes the group's size in bytes; called only if the group is turned away, because it is costly.

        Returns:
            Whether the group was turned away.
        """
        now = time.monotonic()
        if not self._quotas.closed(submit.fleet, now):
            return False
        retry(submit.ack, QUOTA_RATE, self._quotas.turn(submit.fleet, now, size()))
        return True

    async def admit(self, submits: Sequence[PendingSubmit]) -> tuple[list[PendingSubmit], list[Append]]:
        """Admits what shares, caps and rates allow.

        Returns:
            The submits that may be appended now, in their order, and the group of each. All other acks are RETRY.
        """
        within_shares = await self._share_gate.admit(submits)
        within_caps = [(one, one.group) for one in within_shares if one.group is not None and self._within_caps(one)]
        limited: dict[str, list[PendingSubmit]] = {}
        for submit, _ in within_caps:
            if self._quotas.has_rate(submit.fleet):
                limited.setdefault(submit.fleet, []).append(submit)
        refused: set[int] = set()
        for fleet, own in limited.items():
            passed = await self._within_rate(fleet, own)
            refused.update(map(id, own[passed:]))
        admitted = [(submit, group) for submit, group in within_caps if id(submit) not in refused]
        return [submit for submit, _ in admitted], [group for _, group in admitted]

    def _within_caps(self, submit: PendingSubmit) -> bool:
        """Whether the backlog's caps leave space for the group; if not, its ack becomes RETRY."""
        reason = self._backlog_caps.refusal(submit.fleet, self._backlog)
        if reason is not None:
            retry(submit.ack, reason)
            return False
        if submit.group is not None:
            # Counted as queued until Redis reports the backlog again: one flush must not run past a cap.
            known = self._backlog.get(submit.fleet, Backlog(0, 0, 0))
            size = known.bytes + len(submit.group.payload)
            self._backlog[submit.fleet] = Backlog(known.queued + 1, known.groups + 1, size, known.remembered)
        return True

    async def _within_rate(self, fleet: str, submits: Sequence[PendingSubmit]) -> int:
        """Counts how many of a fleet's first submits its rates let pass; the acks of the rest become RETRY."""
        sizes = [len(submit.group.payload) if submit.group else 0 for submit in submits]
        quota, passed = self._quotas.of(fleet), 0
        try:
            if not self._quotas.closed(fleet, time.monotonic()):
                permit = await self._rates.permit(fleet, quota.groups_per_s, quota.bytes_per_s, sizes)
                passed = permit.groups
                if passed < len(submits):
                    self._quotas.refused(fleet, time.monotonic(), permit.wait_s)
        except QueueError:
            for submit in submits:
                retry(submit.ack, QUEUE_UNAVAILABLE)
            return 0
        now = time.monotonic()
        for submit, size in zip(submits[passed:], sizes[passed:], strict=True):
            retry(submit.ack, QUOTA_RATE, self._quotas.turn(fleet, now, size))
        return passed
