"""What a test of episodes needs: a model, an engine that answers from a script, a book, and what was counted and shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from rollout.config import EpisodeLimits
from rollout.data.tokenizer import Tokenizer
from rollout.engine.sampling import Sampling
from rollout.episodes.book import EpisodeBook
from rollout.episodes.calls import Answer, ChatCall, Delta
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.episode import Episode
from tests.tools.chat_model import OddTokens, ScriptedEngine

TEMPLATES = ("chatml", "thinking", "headers", "counting", "opened")


@dataclass
class Counts:
    """Counts what an episode reports."""

    calls: list[str] = field(default_factory=list)
    openings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    dropped: int = 0

    def call_ended(self, outcome: str) -> None:
        self.calls.append(outcome)

    def segment_opened(self, opening: str) -> None:
        self.openings.append(opening)

    def parse_failed(self, failure: str) -> None:
        self.failures.append(failure)

    def overridden(self, parameter: str) -> None:
        self.parameters.append(parameter)

    def answer_dropped(self) -> None:
        self.dropped += 1


@dataclass
class Shown:
    """What a client has been shown of an answer while it came."""

    text: str = ""
    reasoning: str = ""

    def __call__(self, delta: Delta) -> None:
        assert delta.text or delta.reasoning
        assert "\ufffd" not in delta.text + delta.reasoning
        self.text += delta.text
        self.reasoning += delta.reasoning


@dataclass
class World:
    """One model, an engine that answers with the texts of a script, and a book of episodes."""

    tokenizer: Tokenizer
    engine: ScriptedEngine
    book: EpisodeBook
    counts: Counts

    def part(self, ids: Any) -> str:
        return self.tokenizer.part(ids)

    @classmethod
    def of(cls, tokenizer: Tokenizer, *texts: str, seed: int = 0, **limits: Any) -> World:
        """Makes a world whose n-th call is answered with the n-th text; one that has no end token was cut off."""
        counts, odd = Counts(), OddTokens(tokenizer, seed)
        ends = tuple(tokenizer.part([end]) for end in tokenizer.eos_ids)
        engine = ScriptedEngine(lambda call, prompt: (odd.ids(texts[call]), texts[call].endswith(ends)))
        sampling = Sampling(temperature=1.0, max_new_tokens=limits.pop("max_new_tokens", 4096), stop_ids=())
        book = EpisodeBook(engine, tokenizer, ChatFormat(tokenizer), sampling, EpisodeLimits(**limits), counts)
        return cls(tokenizer, engine, book, counts)


def user(text: str) -> dict[str, Any]:
    """A user turn."""
    return {"role": "user", "content": text}


async def talk(episode: Episode, history: list[dict[str, Any]], *says: str, **call: Any) -> list[Answer]:
    """Asks once with the history, and once more after each further thing that a user says; the history grows."""
    answers = []
    for say in (None, *says):
        history += [] if say is None else [user(say)]
        answers.append(await episode.chat(ChatCall(history, **call)))
        history.append(answers[-1].message)
    return answers


async def started(made: World, calls: int) -> None:
    """Waits until the engine has begun a number of calls."""
    while made.engine.calls < calls:  # noqa: ASYNC110 - the engine counts, and nothing else
        await asyncio.sleep(0)
