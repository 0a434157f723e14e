"""Makes one response by an episode: an environment or an agent plays it, here or elsewhere, and gives it its reward."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from rollout.config import TaskConfig
from rollout.data.tokenizer import Tokenizer
from rollout.environments.access import EpisodeAccess
from rollout.environments.packing import OpaqueData
from rollout.environments.pool import EnvironmentPool
from rollout.episodes.book import EpisodeBook
from rollout.episodes.episode import Episode
from rollout.episodes.offers import EpisodeOffer, EpisodeOffers
from rollout.episodes.record import EpisodeRecord
from rollout.generation.outcome import ResponseOutcome
from rollout.tasks import Prompt
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score

EpisodeEnd = Literal["scored", "unscored", "played_again"]
EPISODE_ENDS: tuple[EpisodeEnd, ...] = ("scored", "unscored", "played_again")

_TRIES = 2  # of an episode whose process died: it may have died of another one


class EpisodeEndObserver(Protocol):
    """Counts episodes that have ended."""

    def episode_ended(self, end: EpisodeEnd, turns: int) -> None:
        """Counts an episode.

        Args:
            end: scored; unscored: it is part of its group without a score; played_again: its process died, and what it had
                is thrown away.
            turns: number of generations.
        """
        ...


@dataclass(frozen=True)
class EpisodeDoor:
    """Where episodes are reached.

    Attributes:
        url: base URL of the endpoint, with /v1 at its end.
        socket: its unix socket.
        model: the model's name.
        offers: episodes for agents elsewhere.
    """

    url: str
    socket: Path
    model: str
    offers: EpisodeOffers


class EpisodePlayer:
    """Plays episodes.

    Args:
        config: settings of the task.
        environments: plays those that are played here.
        book: opens them.
        door: where they are reached.
        tokenizer: the model's.
        observer: counts them.
    """

    def __init__(
        self,
        config: TaskConfig,
        environments: EnvironmentPool,
        book: EpisodeBook,
        door: EpisodeDoor,
        tokenizer: Tokenizer,
        observer: EpisodeEndObserver,
    ) -> None:
        self._config = config
        self._environments = environments
        self._book = book
        self._door = door
        self._tokenizer = tokenizer
        self._observer = observer

    async def play(self, prompt: Prompt, prompt_ids: Sequence[int], affinity: str) -> ResponseOutcome:
        """Plays one episode, again where its process died, and returns what became of it.

        Args:
            prompt: what it is about.
            prompt_ids: the prompt's token ids, which a single-turn environment begins with.
            affinity: episodes with the same one share a prefix.
        """
        for tries_left in reversed(range(_TRIES)):
            episode = self._book.open(affinity)
            try:
                result = await self._result(episode, prompt, prompt_ids)
            finally:
                record = episode.close()
            if tries_left and isinstance(result, RewardError) and result.reason == "environment_died":
                self._observer.episode_ended("played_again", record.calls)
                continue
            break
        outcome = self._outcome(record, result)
        self._observer.episode_ended("unscored" if outcome.score is None else "scored", record.calls)
        return outcome

    async def _result(self, episode: Episode, prompt: Prompt, prompt_ids: Sequence[int]) -> Score | RewardError:
        try:
            if self._config.remote:
                return await self._played_elsewhere(episode, prompt)
            door = self._door
            access = EpisodeAccess(door.url, str(door.socket), episode.key, door.model, list(prompt_ids))
            return await self._environments.rollout(prompt, access)
        except RewardError as error:
            return error

    async def _played_elsewhere(self, episode: Episode, prompt: Prompt) -> Score:
        data = prompt.data.public["data"] if isinstance(prompt.data, OpaqueData) else prompt.data
        await self._door.offers.place(EpisodeOffer(episode, replace(prompt, data=data)))
        seconds = self._config.limits.seconds
        episode.start_clock()
        try:
            async with asyncio.timeout(seconds):
                return await episode.reward
        except TimeoutError as error:
            message = f"prompt {prompt.prompt_id!r}: its agent sent no reward within task.limits.seconds = {seconds:g}"
            raise RewardError("limit_seconds", message) from error

    def _outcome(self, record: EpisodeRecord, result: Score | RewardError) -> ResponseOutcome:
        segments, finish = record.segments, record.finish
        if (token := self._unknown_token(record)) is not None:
            message = f"the tokenizer has no token {token}"
            return ResponseOutcome([], finish, None, "unknown_token", message)
        failed = isinstance(result, RewardError)
        if record.limit is not None and (failed or self._config.over_limit == "unscored"):
            message = f"the episode reached task.limits.{record.limit}"
            return ResponseOutcome(segments, finish, None, f"limit_{record.limit}", message)
        if isinstance(result, RewardError):
            return ResponseOutcome(segments, finish, None, result.reason, str(result))
        if not segments:
            return ResponseOutcome([], finish, None, "no_tokens", "the agent has a reward and generated nothing")
        return ResponseOutcome(segments, finish, result)

    def _unknown_token(self, record: EpisodeRecord) -> int | None:
        ends = set(self._tokenizer.eos_ids)
        for segment in record.segments:
            made = [token for token in segment.tokens if token not in ends]
            if (token := self._tokenizer.unknown_id(made)) is not None:
                return token
        return None
