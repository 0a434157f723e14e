"""Decides whether the backlog has space for a group. Pure: numbers in, decisions out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from learner.config import AdmissionConfig
from learner.gateway.quota import Quotas
from learner.gateway.retry_reasons import QUEUE_FULL, QUOTA_BACKLOG
from learner.queue import Backlog

_EMPTY = Backlog(0, 0, 0)


class BacklogCaps:
    """Bounds memory by the backlog, in groups and in bytes.

    A fleet's own caps hold for it alone. When the run's are reached, a fleet is turned away only if it also has at least
    an equal share of the backlog, so that one that floods the run does not shut the others out. The backlog then stays
    below twice its limit. The last flush of another gateway is not known here: each may exceed a cap by that much. The
    remembered ids of a fleet's groups count as its bytes: they stay for a day, and a fleet could fill the memory with them.

    Args:
        config: the run's caps.
        quotas: the fleets' own caps.
    """

    def __init__(self, config: AdmissionConfig, quotas: Quotas) -> None:
        self._quotas = quotas
        self.configure(config)

    def configure(self, config: AdmissionConfig) -> None:
        """Takes other caps of the run."""
        self._max_groups, self._max_bytes = config.max_queued_groups, config.max_queued_bytes

    def refusal(self, fleet: str, backlog: Mapping[str, Backlog]) -> str | None:
        """Reason for which a group of ``fleet`` is not taken now; None if there is space.

        Args:
            fleet: the submitter.
            backlog: what is in the queue, by fleet.

        Returns:
            One of learner.gateway.retry_reasons.REASONS, or None.
        """
        quota, own = self._quotas.of(fleet), backlog.get(fleet, _EMPTY)
        if quota.max_queued_groups is not None and own.queued >= quota.max_queued_groups:
            return QUOTA_BACKLOG
        if quota.max_queued_bytes is not None and own.bytes + own.remembered >= quota.max_queued_bytes:
            return QUOTA_BACKLOG
        if _over_share(fleet, backlog, self._max_groups, lambda one: one.queued):
            return QUEUE_FULL
        if _over_share(fleet, backlog, self._max_bytes, lambda one: one.bytes, lambda one: one.remembered):
            return QUEUE_FULL
        return None


def _over_share(
    fleet: str,
    backlog: Mapping[str, Backlog],
    cap: int,
    waiting: Callable[[Backlog], int],
    kept: Callable[[Backlog], int] = lambda one: 0,
) -> bool:
    """Whether all that is waiting or kept has reached ``cap``, and the fleet has an equal share of ``cap`` or more.

    Fleets of which nothing is waiting take no share.
    """
    if sum(waiting(one) + kept(one) for one in backlog.values()) < cap:
        return False
    busy = {name for name, one in backlog.items() if waiting(one)} | {fleet}
    own = backlog.get(fleet, _EMPTY)
    return waiting(own) + kept(own) >= cap // len(busy)
