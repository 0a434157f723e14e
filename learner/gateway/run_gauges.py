"""Looks at what a gateway does not meet on its way: the run's queue, its account, Redis's memory, our certificate."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from learner.config import GatewayConfig
from learner.gateway.auth import Identities
from learner.gateway.lease_shares import LeaseShares
from learner.gateway.metrics import GatewayMetrics
from learner.queue import GatewayQueue, QueueError
from runtime.certificates import expiry

_EVERY_S = 2.0
_ACCOUNTS_EVERY = 5  # looks; accounts cost more, and change no faster than anybody reads them


class RunGauges:
    """Keeps a gateway's gauges of the run up to date.

    Args:
        config: caps, certificate.
        identities: who may submit.
        queue: the run's.
        meters: where it is shown.
    """

    def __init__(
        self, config: GatewayConfig, identities: Identities, queue: GatewayQueue, meters: GatewayMetrics
    ) -> None:
        self._certificate = config.tls.certificate if config.tls else None
        self._identities = identities
        self._queue = queue
        self._meters = meters
        admission = config.admission
        meters.limits(admission.max_queued_groups, admission.max_queued_bytes, LeaseShares(admission).bound)
        meters.know(identities.submitters())

    async def run(self) -> None:
        """Looks for ever; while Redis does not answer, what was last seen stays."""
        for number in itertools.count():
            submitters = self._identities.submitters()
            self._meters.know(submitters)
            if self._certificate is not None:
                self._meters.certificate(expiry(self._certificate))
            with contextlib.suppress(QueueError):
                self._meters.queue(await self._queue.backlog(), submitters)
                self._meters.occupancy(await self._queue.leases.occupancy())
                if number % _ACCOUNTS_EVERY == 0:
                    self._meters.ledgers(await self._queue.ledgers())
                    self._meters.memory(await self._queue.memory())
            await asyncio.sleep(_EVERY_S)
