"""Updates the gauges that no call of a fleet updates: queue, ledger, memory of Redis, and the gateway's certificate."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from learner.config import AdmissionConfig, GatewayConfig
from learner.gateway.auth import Identities
from learner.gateway.lease_shares import LeaseShares
from learner.gateway.metrics import GatewayMetrics
from learner.queue import GatewayQueue, QueueError
from runtime.certificates import expiry

_EVERY_S = 2.0
_LEDGERS_EVERY = 5  # updates; ledgers cost more, and nobody reads them more often


class RunGauges:
    """Keeps a gateway's gauges of the run up to date.

    Args:
        config: caps and certificate.
        identities: the fleets that may submit.
        queue: the run's queue, from which the gauges are read.
        metrics: where the gauges are.
    """

    def __init__(
        self, config: GatewayConfig, identities: Identities, queue: GatewayQueue, metrics: GatewayMetrics
    ) -> None:
        self._certificate = config.tls.certificate if config.tls else None
        self._identities = identities
        self._queue = queue
        self._metrics = metrics
        self.configure(config.admission, frozenset())
        metrics.add_fleets(identities.submitters())

    def configure(self, config: AdmissionConfig, drained: frozenset[str]) -> None:
        """Shows other caps, weights and drained fleets."""
        self._lease_shares = LeaseShares(config)
        self._metrics.limits(config.max_queued_groups, config.max_queued_bytes, self._lease_shares.bound())
        self._metrics.drained(drained)

    async def run(self) -> None:
        """Updates the gauges every 2 s until it is cancelled; while Redis does not answer, they keep their last values."""
        for number in itertools.count():
            submitters = self._identities.submitters()
            self._metrics.add_fleets(submitters)
            if self._certificate is not None:
                self._metrics.certificate(expiry(self._certificate))
            with contextlib.suppress(QueueError):
                self._metrics.queue(await self._queue.backlog(), submitters)
                self._metrics.ended(await self._queue.finished())
                occupancy = await self._queue.leases.occupancy()
                shares = {fleet: self._lease_shares.share(fleet, occupancy) for fleet in occupancy.occupied}
                self._metrics.occupancy(occupancy, shares, self._lease_shares.bound(occupancy))
                if number % _LEDGERS_EVERY == 0:
                    self._metrics.ledgers(await self._queue.ledgers())
                    self._metrics.memory(await self._queue.memory())
                    self._metrics.evaluations(await self._queue.evaluations.newest())
            await asyncio.sleep(_EVERY_S)
