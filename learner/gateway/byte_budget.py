"""Bounds the bytes of groups that a gateway has read and not yet decided about, in all and for every fleet."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping


class ByteBudget:
    """Lets streams read on only while what they have read fits; the others wait, fleets in turn.

    A message that is larger than a budget passes when nothing else is held against that budget, so none waits for ever.

    Args:
        total: bytes of all fleets.
        per_fleet: bytes of one fleet.
    """

    def __init__(self, total: int, per_fleet: int) -> None:
        self._total = total
        self._per_fleet = per_fleet
        self._held: Counter[str] = Counter()
        self._held_in_all = 0
        # By fleet, empty lines left out; the first fleet has the next turn.
        self._lines: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}

    @property
    def held(self) -> Mapping[str, int]:
        """Bytes held by fleet; a fleet that has held some once stays, with 0."""
        return self._held

    async def acquire(self, fleet: str, size: int) -> None:
        """Waits until ``size`` bytes fit, and holds them; ``release`` them later, in any parts.

        A caller that is cancelled holds nothing.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(fleet, deque()).append((size, turn))
        self._grant()
        if turn.done():
            return
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(fleet, (size, turn))
            else:  # its turn came at the moment when it was cancelled
                self.release(fleet, size)
            raise

    def release(self, fleet: str, size: int) -> None:
        """Gives bytes back, and lets those go on that now fit."""
        self._held[fleet] -= size
        self._held_in_all -= size
        self._grant()

    def _grant(self) -> None:
        """Gives turns while the next one fits."""
        while (fleet := self._next()) is not None:
            line = self._lines.pop(fleet)
            size, turn = line.popleft()
            if line:
                self._lines[fleet] = line  # behind the others
            if turn.cancelled():
                continue  # its task has not run since
            self._held[fleet] += size
            self._held_in_all += size
            turn.set_result(None)

    def _next(self) -> str | None:
        """Returns the fleet whose turn it is, None if nobody's message fits."""
        for fleet, line in self._lines.items():
            size, held = line[0][0], self._held[fleet]
            if held and held + size > self._per_fleet:
                continue  # the fleet waits for itself; the others do not wait for it
            # Nobody overtakes a message that waits for the total: small ones would keep a large one waiting for ever.
            fits = not self._held_in_all or self._held_in_all + size <= self._total
            return fleet if fits else None
        return None

    def _leave(self, fleet: str, waiter: tuple[int, asyncio.Future[None]]) -> None:
        """Takes a cancelled waiter out of its line, if it is still there; those behind it may fit where it did not."""
        line = self._lines.get(fleet, deque())
        if waiter in line:
            line.remove(waiter)
            if not line:
                del self._lines[fleet]
            self._grant()
