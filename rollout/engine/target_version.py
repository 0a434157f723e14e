"""The version that all engines of a pool have to serve."""

from __future__ import annotations

import asyncio

from rollout.versions.verifier import Version


class TargetVersion:
    """The version that engines have to serve.

    Attributes:
        version: None until the first one is set.
    """

    def __init__(self) -> None:
        self.version: Version | None = None
        self._changed = asyncio.Condition()

    async def set(self, version: Version) -> None:
        """Makes a version current and wakes those who wait for it."""
        async with self._changed:
            self.version = version
            self._changed.notify_all()

    async def other_than(self, number: int | None) -> Version:
        """Returns the current version as soon as its number is not ``number``."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.version is not None and self.version.number != number)
            assert self.version is not None
            return self.version
