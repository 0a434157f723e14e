"""What a gateway promises and takes. Pure: numbers in, decisions out."""

from __future__ import annotations

from collections.abc import Mapping

from learner.config import AdmissionConfig


class Admission:
    """Bounds memory by the backlog.

    A fleet is turned away only when the whole backlog is full *and* the fleet has more than an equal share of it, so that
    a flood does not shut the others out. The backlog then stays below twice its limit.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self._max_queued = config.max_queued_groups

    def has_room(self, fleet: str, backlog: Mapping[str, int]) -> bool:
        """Whether a group of ``fleet`` is taken now.

        Args:
            fleet: whose group it is.
            backlog: queued groups of every fleet.
        """
        if sum(backlog.values()) < self._max_queued:
            return True
        busy = {name for name, queued in backlog.items() if queued} | {fleet}
        return backlog.get(fleet, 0) < self._max_queued // len(busy)
