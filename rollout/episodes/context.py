"""What the episodes of a worker share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rollout.config import EpisodeLimits
from rollout.data.tokenizer import Tokenizer
from rollout.engine.response import Response
from rollout.engine.sampling import Sampling
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.observer import EpisodeObserver

OnTokens = Callable[[Sequence[int]], None]


class GenerateOne(Protocol):
    """Generates one response, as ``EnginePool.generate_one`` does."""

    async def __call__(
        self, prompt: Sequence[int], sampling: Sampling, affinity: str = "", on_tokens: OnTokens | None = None
    ) -> Response:
        """Generates one response after a prompt; ``on_tokens`` is called with new tokens as they arrive."""
        ...


@dataclass(frozen=True)
class EpisodeContext:
    """What every episode needs.

    Attributes:
        generate: generates a response.
        tokenizer: the model's.
        chat_format: the model's.
        sampling: how tokens are drawn; max_new_tokens is the most that a call may generate.
        limits: of each episode.
        observer: counts.
    """

    generate: GenerateOne
    tokenizer: Tokenizer
    chat_format: ChatFormat
    sampling: Sampling
    limits: EpisodeLimits
    observer: EpisodeObserver
