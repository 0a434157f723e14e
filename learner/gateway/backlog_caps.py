"""Who has room in the backlog. Pure: numbers in, decisions out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from learner.config import AdmissionConfig
from learner.gateway.pending_submit import BACKLOG, FULL
from learner.gateway.quota import Quotas
from learner.queue import Backlog

_EMPTY = Backlog(0, 0, 0)


class BacklogCaps:
    """Bounds memory by the backlog, in groups and in bytes.

    A fleet's own caps hold for it alone. When the run's are reached, a fleet is turned away only if it has more than an
    equal share of the backlog too, so that a flood does not shut the others out. The backlog then stays below twice its
    limit. Another gateway's last flush is not known here: each may exceed a cap by so much.
    """

    def __init__(self, config: AdmissionConfig, quotas: Quotas) -> None:
        self._quotas = quotas
        self._max_groups = config.max_queued_groups
        self._max_bytes = config.max_queued_bytes

    def refusal(self, fleet: str, backlog: Mapping[str, Backlog]) -> str | None:
        """Why a group of ``fleet`` is not taken now, the reason of a RETRY; None when there is room.

        Args:
            fleet: whose group it is.
            backlog: what of every fleet is in the queue.
        """
        quota, own = self._quotas.of(fleet), backlog.get(fleet, _EMPTY)
        if quota.max_queued_groups is not None and own.queued >= quota.max_queued_groups:
            return BACKLOG
        if quota.max_queued_bytes is not None and own.bytes >= quota.max_queued_bytes:
            return BACKLOG
        if _over_share(fleet, backlog, self._max_groups, lambda one: one.queued):
            return FULL
        if _over_share(fleet, backlog, self._max_bytes, lambda one: one.bytes):
            return FULL
        return None


def _over_share(fleet: str, backlog: Mapping[str, Backlog], most: int, size: Callable[[Backlog], int]) -> bool:
    """Whether the whole backlog has reached ``most`` and the fleet has an equal share of it or more."""
    if sum(map(size, backlog.values())) < most:
        return False
    busy = {name for name, one in backlog.items() if size(one)} | {fleet}
    return size(backlog.get(fleet, _EMPTY)) >= most // len(busy)
