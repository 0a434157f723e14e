"""How a process reaches one episode at the worker's endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EpisodeAccess:
    """The way to one episode.

    Attributes:
        base_url: base URL for client libraries, with /v1 at its end.
        socket: path of the unix socket on which the same endpoint listens.
        api_key: the episode's key.
        model: the model's name.
        prompt_tokens: token ids of the episode's prompt.
    """

    base_url: str
    socket: str
    api_key: str
    model: str
    prompt_tokens: Sequence[int]
