"""Follows what operators have changed in a running service, as far as gateways apply it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from learner.config import AdmissionConfig, GatewayConfig
from learner.config.changeable import ChangeError, gateway_config
from learner.queue import GatewayQueue, QueueError
from learner.queue.change_journal import InForce

_EVERY_S = 0.5  # a change is in force at every gateway within a second

# Takes the limits, quotas and weights in force, and the fleets that are drained.
Apply = Callable[[AdmissionConfig, frozenset[str]], None]


class ChangeFeed:
    """Puts changed limits, quotas, weights and drained fleets in force; while Redis is away the last known ones stay.

    Args:
        config: settings of the gateway's file.
        queue: where the changes are.
        apply: each is called at every change.
    """

    def __init__(self, config: GatewayConfig, queue: GatewayQueue, *apply: Apply) -> None:
        self._config = config
        self._queue = queue
        self._apply = apply
        self._known: InForce | None = None
        self._log = structlog.get_logger(process="gateway")

    async def run(self) -> None:
        """Looks for changes twice a second until it is cancelled, through any outage of Redis."""
        while True:
            # The version feed logs an outage, once; this would for the same reason.
            with contextlib.suppress(QueueError):
                await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Puts in force what was changed since the last look. Settings that do not fit this gateway's file change nothing.

        Raises:
            QueueError: Redis does not answer, or its data is not the run's newest.
        """
        found = await self._queue.in_force()
        known = self._known or InForce({}, frozenset(), frozenset(), False)
        self._known = found
        if (found.settings, found.drained) == (known.settings, known.drained):
            return
        try:
            admission = gateway_config(self._config, found.settings).admission
        except ChangeError as error:
            self._log.error(
                "the changed settings do not fit this gateway's file: the file's are in force", error=str(error)
            )
            admission = self._config.admission
        for apply in self._apply:
            apply(admission, found.drained)
        self._log.info("changes are in force", settings=dict(found.settings), drained=sorted(found.drained))
