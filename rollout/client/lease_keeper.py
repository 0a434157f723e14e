"""Keeps the leases of groups that are still being made, however long that takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from leeway.v1 import rollout_pb2
from rollout.client.client import SubmitClient

_log = logging.getLogger(__name__)

_MOST_RENEWED = 1000  # leases in one request: the gateway refuses more
_SHORTEST_PAUSE_S = 0.1


class LeaseKeeper:
    """Renews held leases every third of their lifetime; ``run`` must be running.

    A process that dies renews nothing more, so that what it was promised is free again after one lifetime.

    Args:
        client: the fleet's connection.
        running_version: returns the version that the engines run, which is reported with every renewal.
        lost: called with the leases that could not be renewed. Their groups may still be submitted: the gateway takes them
            while the fleet is within its share.
    """

    def __init__(
        self,
        client: SubmitClient,
        running_version: Callable[[], int | None] = lambda: None,
        lost: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._running_version = running_version
        self._lost = lost
        self._held: dict[str, None] = {}
        self._some = asyncio.Event()
        self._pause_s = _SHORTEST_PAUSE_S

    @property
    def held(self) -> list[str]:
        """Leases that were not released yet."""
        return list(self._held)

    def hold(self, lease: rollout_pb2.LeaseResponse) -> None:
        """Keeps a lease that was just granted, until it is released."""
        self._held[lease.lease_id] = None
        self._set_pause(lease)
        self._some.set()

    def release(self, lease_id: str) -> None:
        """Ends the keeping of a lease: its groups are acknowledged, or will never be."""
        self._held.pop(lease_id, None)
        if not self._held:
            self._some.clear()

    async def run(self) -> None:
        """Renews until it is cancelled.

        Raises:
            AuthError: the credentials are refused.
        """
        while True:
            await self._some.wait()
            await asyncio.sleep(self._pause_s)  # a lease granted meanwhile is renewed sooner than it needs to be
            held = list(self._held)
            for start in range(0, len(held), _MOST_RENEWED):
                await self._renew(held[start : start + _MOST_RENEWED])

    async def _renew(self, lease_ids: Sequence[str]) -> None:
        response = await self._client.renew(lease_ids, self._running_version())
        self._set_pause(response)
        # Those released while the call was under way were used up.
        if lost := [lease_id for lease_id in response.lost_lease_ids if lease_id in self._held]:
            _log.warning("%d leases could not be renewed; their groups are still made", len(lost))
            for lease_id in lost:
                self.release(lease_id)
            self._lost(lost)

    def _set_pause(self, response: rollout_pb2.LeaseResponse) -> None:
        self._pause_s = max(_SHORTEST_PAUSE_S, response.expires_in_ms / 3000)
