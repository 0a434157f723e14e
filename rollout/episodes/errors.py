"""Why an episode does not answer a call."""

from __future__ import annotations

from typing import Literal

from rollout.data.chat_message import ChatRequestError
from runtime.errors import LeewayError

__all__ = ["ChatRequestError", "EngineAbortedError", "EpisodeLimitError", "Limit", "UnknownEpisodeError"]

Limit = Literal["turns", "tokens", "seconds"]


class UnknownEpisodeError(LeewayError):
    """A key that belongs to no open episode: it never did, or its episode has ended. The same call fails for ever."""


class EpisodeLimitError(LeewayError):
    """A call that would exceed a limit of its episode. The same call fails for ever.

    Attributes:
        limit: which of them: "turns", "tokens" or "seconds".
    """

    def __init__(self, limit: Limit, message: str) -> None:
        super().__init__(message)
        self.limit: Limit = limit


class EngineAbortedError(LeewayError):
    """A response that an engine gave up. The call has left no trace and may be made again."""
