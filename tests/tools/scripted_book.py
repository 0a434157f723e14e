"""An EpisodeBook whose answers are written down: what the endpoint's unit tests have behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.config import EndpointConfig, EpisodeLimits, SamplingConfig
from rollout.endpoint.api_error import Api
from rollout.endpoint.observer import Outcome
from rollout.endpoint.served_policy import ServedPolicy
from rollout.endpoint.server import Endpoint
from rollout.engine.response import VersionSpan
from rollout.episodes.calls import Answer, ChatCall, Delta, Finish, OnDelta
from rollout.episodes.errors import UnknownEpisodeError
from rollout.episodes.offers import EpisodeOffers

KEY = "key-of-the-episode"
Scripted = Answer | Exception | Callable[[OnDelta], Answer]


def answer(content: str | None = "Hello there", finish: Finish = "stop", **message: Any) -> Answer:
    """An answer of four tokens, two of them of version 7 and two of version 8."""
    said = {"role": "assistant", "content": content, **message}
    spans = [VersionSpan(7, 0, 2), VersionSpan(8, 2, 4)]
    return Answer(said, [5, 6, 7, 2], spans, finish, prompt_tokens=11, segment=0, continued=False)


def calling(name: str, arguments: str, content: str | None = None, call_id: str = "call_1") -> Answer:
    """An answer that calls a tool."""
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return answer(content, "tool_calls", tool_calls=[call])


class ScriptedEpisode:
    """An episode that gives its answers one after the other, their texts in pieces of three characters.

    Attributes:
        calls: what was asked: chat calls, or (token ids, options).
        cancelled: set when a call was cancelled.
        hangs: whether calls wait for ever.
    """

    def __init__(self, *script: Scripted) -> None:
        self.key = KEY
        self.script: list[Any] = list(script)
        self.calls: list[Any] = []
        self.reward: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()
        self.hangs = False

    async def chat(self, call: ChatCall, on_delta: OnDelta | None = None) -> Answer:
        self.calls.append(call)
        return await self._next(on_delta)

    async def generate(
        self,
        tokens: Sequence[int],
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        on_delta: OnDelta | None = None,
    ) -> Answer:
        self.calls.append((list(tokens), max_new_tokens, tuple(stop)))
        return await self._next(on_delta)

    async def _next(self, on_delta: OnDelta | None) -> Answer:
        self.begun.set()
        try:
            if self.hangs:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        step = self.script.pop(0) if self.script else answer()
        if isinstance(step, Exception):
            raise step
        if not isinstance(step, Answer):
            return step(on_delta or (lambda delta: None))
        if on_delta is not None:
            for kind in ("reasoning", "text"):
                text = step.message.get("reasoning_content" if kind == "reasoning" else "content") or ""
                for start in range(0, len(text), 3):
                    on_delta(Delta(**{kind: text[start : start + 3]}))
        return step


class ScriptedBook:
    """A book with one open episode."""

    def __init__(self, episode: ScriptedEpisode) -> None:
        self._episode = episode

    def find(self, key: str) -> ScriptedEpisode:
        if key != self._episode.key:
            raise UnknownEpisodeError("no open episode has this key: it has ended, or never was")
        return self._episode


@dataclass
class Counted:
    """What an endpoint has counted."""

    calls: list[tuple[Api, Outcome]] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)

    def called(self, api: Api, outcome: Outcome) -> None:
        self.calls.append((api, outcome))

    def overridden(self, parameter: str) -> None:
        self.parameters.append(parameter)


def _count(call: ChatCall) -> int:
    return sum(len(str(message["content"]).split()) for message in call.messages)


def serve(
    episode: ScriptedEpisode,
    counted: Counted,
    directory: Path,
    limits: EpisodeLimits | None = None,
    offers: EpisodeOffers | None = None,
    **settings: Any,
):
    """Opens an endpoint with one scripted episode, whose texts have a token a character."""
    served = ServedPolicy(
        book=ScriptedBook(episode),  # pyright: ignore[reportArgumentType] - the edge of these tests
        offers=EpisodeOffers() if offers is None else offers,
        model="policy",
        encode=lambda text: [ord(character) for character in text],
        count=_count,
        sampling=SamplingConfig(),
        limits=limits or EpisodeLimits(),
        observer=counted,
    )
    return Endpoint.open(EndpointConfig(**settings), served, directory / "endpoint.sock")
