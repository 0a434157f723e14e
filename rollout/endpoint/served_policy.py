"""What the endpoint serves: episodes, and what callers are told about the policy behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rollout.config import EpisodeLimits, SamplingConfig
from rollout.endpoint.observer import EndpointObserver
from rollout.episodes.book import EpisodeBook
from rollout.episodes.calls import ChatCall
from rollout.episodes.offers import EpisodeOffers


@dataclass(frozen=True)
class ServedPolicy:
    """The worker's policy, as its endpoint serves it.

    Attributes:
        book: the open episodes.
        offers: episodes for agents elsewhere.
        model: its name in answers; calls may use any.
        encode: returns the token ids of a text, for calls of /v1/completions that have text.
        count: returns the number of tokens of a conversation with the beginning of an answer.
        sampling: how the worker draws tokens.
        limits: of every episode.
        observer: counts calls.
    """

    book: EpisodeBook
    offers: EpisodeOffers
    model: str
    encode: Callable[[str], Sequence[int]]
    count: Callable[[ChatCall], int]
    sampling: SamplingConfig
    limits: EpisodeLimits
    observer: EndpointObserver
