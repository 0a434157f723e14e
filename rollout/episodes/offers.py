"""Episodes that wait for agents elsewhere: generation offers them, agents ask for them over HTTP."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from rollout.episodes.episode import Episode
from rollout.tasks import Prompt


@dataclass(frozen=True)
class EpisodeOffer:
    """An episode and what is asked in it."""

    episode: Episode
    prompt: Prompt


class EpisodeOffers:
    """Hands every offered episode to one agent, in the order in which they were offered."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[EpisodeOffer, asyncio.Future[None]]] = deque()
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        """Number of episodes that wait for an agent."""
        return sum(not taken.done() for _, taken in self._waiting)

    async def place(self, offer: EpisodeOffer) -> None:
        """Offers an episode and waits until an agent has taken it. Cancelling withdraws the offer."""
        entry = offer, asyncio.get_running_loop().create_future()
        self._waiting.append(entry)
        self._arrived.set()
        try:
            await entry[1]
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def take(self, wait_s: float) -> EpisodeOffer | None:
        """Takes the oldest offer; waits for one if there is none. Returns None after ``wait_s`` seconds without."""
        try:
            async with asyncio.timeout(wait_s):
                while (offer := self._next()) is None:
                    self._arrived.clear()
                    await self._arrived.wait()
                return offer
        except TimeoutError:
            return None

    def _next(self) -> EpisodeOffer | None:
        while self._waiting:
            offer, taken = self._waiting.popleft()
            # A withdrawn offer stays in the queue until the task that placed it runs again.
            if not taken.done():
                taken.set_result(None)
                return offer
        return None
