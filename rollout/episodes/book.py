"""The open episodes of a worker, by key."""

from __future__ import annotations

import secrets

from rollout.config import EpisodeLimits
from rollout.data.tokenizer import Tokenizer
from rollout.engine.sampling import Sampling
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.context import EpisodeContext, GenerateOne
from rollout.episodes.episode import Episode
from rollout.episodes.errors import UnknownEpisodeError
from rollout.episodes.observer import EpisodeObserver

_KEY_BYTES = 32


class EpisodeBook:
    """Opens episodes and finds them by their keys.

    Args:
        generate: generates a response, as ``EnginePool.generate_one``.
        tokenizer: the model's.
        chat_format: the model's.
        sampling: how tokens are drawn; max_new_tokens is the most that a call may generate.
        limits: of each episode; see ``bounded_limits`` for what the run takes.
        observer: counts.
    """

    def __init__(
        self,
        generate: GenerateOne,
        tokenizer: Tokenizer,
        chat_format: ChatFormat,
        sampling: Sampling,
        limits: EpisodeLimits,
        observer: EpisodeObserver,
    ) -> None:
        self._context = EpisodeContext(generate, tokenizer, chat_format, sampling, limits, observer)
        self._open: dict[str, Episode] = {}

    def __len__(self) -> int:
        """Number of open episodes."""
        return len(self._open)

    def open(self, affinity: str = "") -> Episode:
        """Opens an episode with a new key; its seconds count from now on.

        Args:
            affinity: episodes with the same one share a prefix, which one engine keeps in its cache.
        """
        key = secrets.token_urlsafe(_KEY_BYTES)
        episode = Episode(key, self._context, affinity, self._closed)
        self._open[key] = episode
        return episode

    def find(self, key: str) -> Episode:
        """Returns the open episode of a key. Raises UnknownEpisodeError where there is none, or no longer."""
        try:
            return self._open[key]
        except KeyError:
            raise UnknownEpisodeError(
                "the key belongs to no open episode: keys are used once, and end with their episode; ask for another one"
            ) from None

    def _closed(self, episode: Episode) -> None:
        self._open.pop(episode.key, None)
