"""Calls of an episode, as every API makes them: found by their key, limited in time, their overridden parameters told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from rollout.config import EndpointConfig
from rollout.endpoint.caller import key_of
from rollout.endpoint.fields import Fields
from rollout.endpoint.foreign_sampling import ForeignSampling
from rollout.endpoint.served_policy import ServedPolicy
from rollout.episodes.calls import Answer
from rollout.episodes.episode import Episode
from rollout.episodes.errors import EpisodeLimitError

OVERRIDDEN = "x-leeway-overridden"


class EpisodeCalls:
    """The way from a request to its episode.

    Args:
        config: settings of the endpoint.
        served: what it serves.
    """

    def __init__(self, config: EndpointConfig, served: ServedPolicy) -> None:
        self.served = served
        self._foreign = ForeignSampling(served.sampling, config.foreign_sampling)

    def episode(self, request: web.Request) -> Episode:
        """Returns the episode of a call's key.

        Raises:
            ApiError: the call has no key.
            UnknownEpisodeError: no open episode has it.
        """
        return self.served.book.find(key_of(request))

    def overridden(self, body: Fields) -> dict[str, str]:
        """Counts the parameters of a call that are not obeyed; returns the header that names them.

        Raises:
            ApiError: the settings refuse them.
        """
        names = self._foreign.overridden(body.values)
        for name in names:
            self.served.observer.overridden(name)
        return {OVERRIDDEN: ", ".join(names)} if names else {}

    async def limited(self, call: Awaitable[Answer]) -> Answer:
        """Awaits an answer, for no longer than an episode may last: while engines are away, a call waits for them.

        Raises:
            EpisodeLimitError: the limit was reached.
        """
        seconds = self.served.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                return await call
        except TimeoutError as error:
            raise EpisodeLimitError(
                "seconds", f"no answer within the {seconds:g} s that an episode may last"
            ) from error
