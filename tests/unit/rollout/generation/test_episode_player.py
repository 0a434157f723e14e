"""Responses made by episodes: played here or elsewhere, again where their process died, unscored with their tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from leeway.v1 import rollout_pb2
from rollout.client import decode_ids
from rollout.config import TaskConfig
from rollout.data.demo_model import EOS, write_model
from rollout.data.tokenizer import Tokenizer
from rollout.engine.response import Response, VersionSpan
from rollout.engine.sampling import Sampling
from rollout.environments.access import EpisodeAccess
from rollout.environments.packing import OpaqueData
from rollout.episodes.book import EpisodeBook
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.episode import Episode
from rollout.episodes.errors import EpisodeLimitError
from rollout.episodes.observer import UncountedEpisodes
from rollout.episodes.offers import EpisodeOffers
from rollout.generation.episode_player import EpisodeDoor, EpisodePlayer
from rollout.generation.group import make_group
from rollout.generation.outcome import ResponseOutcome
from rollout.tasks import Prompt
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score

SAMPLING = Sampling(1.0, 8, (EOS,))
PROMPT, IDS = Prompt("p", "12=", OpaqueData("", {"data": {"answer": 3}})), [14, 1, 2, 11]
Play = Callable[[Episode, list[int]], Awaitable[Score]]


async def engine(prompt: Sequence[int], sampling: Sampling, affinity: str = "", on_tokens: Any = None) -> Response:
    """Answers every context with two tokens of version 4 and the end token, or with as many as it may."""
    tokens = [1, 2, EOS][: sampling.max_new_tokens]
    return Response(tokens, "stop" if tokens[-1] == EOS else "length", [VersionSpan(4, 0, len(tokens))])


class Site:
    """A player with all that it needs; ``play`` is what environments do in each episode.

    Attributes:
        ended: what was counted: how an episode ended, and its turns.
        keys: of all episodes that environments were given.
    """

    def __init__(self, model: Path, play: Play | None = None, **changes: Any) -> None:
        config = TaskConfig.parse({"name": "m:agent", "prompts": "sort", **changes}, source="test")
        tokenizer = Tokenizer(model)
        chat_format = ChatFormat(tokenizer)
        self.book = EpisodeBook(engine, tokenizer, chat_format, SAMPLING, config.limits, UncountedEpisodes())
        self.offers = EpisodeOffers()
        self.ended: list[tuple[str, int]] = []
        self.keys: list[str] = []
        self._play = play
        door = EpisodeDoor("http://127.0.0.1:1/v1", Path("/socket"), "policy", self.offers)
        parts: Any = (config, self, self.book, door, tokenizer, self)
        self.player = EpisodePlayer(*parts)

    async def rollout(self, prompt: Prompt, access: EpisodeAccess) -> Score:
        assert (access.socket, access.model, access.prompt_tokens) == ("/socket", "policy", IDS)
        self.keys.append(access.api_key)
        assert self._play is not None
        return await self._play(self.book.find(access.api_key), IDS)

    def episode_ended(self, end: Any, turns: int) -> None:
        self.ended.append((end, turns))

    async def play(self) -> ResponseOutcome:
        outcome = await self.player.play(PROMPT, IDS, "group")
        assert len(self.book) == 0  # no key outlives its episode
        return outcome


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path, seed=0)
    return tmp_path


async def two_turns(episode: Episode, ids: list[int]) -> Score:
    answer = await episode.generate(ids)
    await episode.generate([*ids, *answer.tokens, 5, 6])
    return Score(0.5, {"right": 0.5})


async def test_what_an_environment_adds_is_context_without_loss(model: Path):
    site = Site(model, two_turns)
    outcome = await site.play()
    group = make_group("agent", "p", IDS, [outcome, outcome], SAMPLING)
    response = group.responses[0]
    assert decode_ids(response.tokens) == [1, 2, EOS, 5, 6, 1, 2, EOS]
    assert [(span.version, span.start, span.end) for span in response.spans] == [(4, 0, 3), (4, 5, 8)]
    assert (response.reward, dict(response.reward_parts), response.unscored) == (0.5, {"right": 0.5}, "")
    assert not response.segments
    assert site.ended == [("scored", 2)]


async def test_other_contexts_are_segments(model: Path):
    async def forgets(episode: Episode, ids: list[int]) -> Score:
        await episode.generate(ids)
        await episode.generate([14, 7, 11])
        return Score(1.0)

    outcome = await Site(model, forgets).play()
    response = make_group("agent", "p", IDS, [outcome], SAMPLING).responses[0]
    assert (response.tokens, len(response.spans)) == (b"", 0)
    assert [decode_ids(segment.context_tokens) for segment in response.segments] == [IDS, [14, 7, 11]]
    assert [decode_ids(segment.tokens) for segment in response.segments] == [[1, 2, EOS]] * 2
    alone = ResponseOutcome(outcome.segments[1:], "stop", Score(1.0))  # one sequence, and not after the group's prompt
    assert len(make_group("agent", "p", IDS, [alone], SAMPLING).responses[0].segments) == 1


async def test_an_episode_whose_process_died_is_played_once_more_as_another_one(model: Path):
    async def dies_first(episode: Episode, ids: list[int]) -> Score:
        await episode.generate(ids)
        if len(site.keys) == 1:
            raise RewardError("environment_died", "killed")
        return Score(1.0)

    site = Site(model, dies_first)
    outcome = await site.play()
    assert outcome.score == Score(1.0)
    assert [segment.tokens for segment in outcome.segments] == [[1, 2, EOS]]  # nothing of the first one
    assert len(set(site.keys)) == 2
    assert site.ended == [("played_again", 1), ("scored", 1)]


@pytest.mark.parametrize(("reason", "tries"), [("environment_died", 2), ("rollout_failed", 1), ("limit_seconds", 1)])
async def test_an_episode_without_a_reward_is_unscored_with_its_tokens(model: Path, reason: Any, tries: int):
    async def fails(episode: Episode, ids: list[int]) -> Score:
        await episode.generate(ids)
        raise RewardError(reason, "scripted")

    site = Site(model, fails)
    outcome = await site.play()
    response = make_group("agent", "p", IDS, [outcome], SAMPLING).responses[0]
    assert (response.unscored, response.reward, decode_ids(response.tokens)) == (reason, 0.0, [1, 2, EOS])
    assert (outcome.message, len(site.keys)) == ("scripted", tries)


@pytest.mark.parametrize(("over_limit", "score"), [("unscored", None), ("score", Score(0.25))])
async def test_an_episode_over_its_limit_is_scored_only_where_the_run_says_so(
    model: Path, over_limit: str, score: Score | None
):
    async def stops_at_the_limit(episode: Episode, ids: list[int]) -> Score:
        await episode.generate(ids)
        with pytest.raises(EpisodeLimitError):
            await episode.generate(ids)
        return Score(0.25)

    site = Site(model, stops_at_the_limit, limits={"turns": 1}, over_limit=over_limit)
    outcome = await site.play()
    assert outcome.score == score
    assert outcome.unscored == ("limit_turns" if score is None else "")
    assert [segment.tokens for segment in outcome.segments] == [[1, 2, EOS]]


async def test_an_agent_that_fails_at_the_limit_is_over_the_limit_and_nothing_else(model: Path):
    async def lets_it_through(episode: Episode, ids: list[int]) -> Score:
        await episode.generate(ids)
        try:
            await episode.generate(ids)
        except EpisodeLimitError as error:
            raise RewardError("rollout_failed", str(error)) from error
        raise AssertionError

    site = Site(model, lets_it_through, limits={"turns": 1}, over_limit="score")
    assert (await site.play()).unscored == "limit_turns"


async def test_an_agent_that_asks_nothing_has_nothing_to_train(model: Path):
    async def asks_nothing(episode: Episode, ids: list[int]) -> Score:
        return Score(1.0)

    outcome = await Site(model, asks_nothing).play()
    response = make_group("agent", "p", IDS, [outcome], SAMPLING).responses[0]
    assert response == rollout_pb2.Response(finish_reason=rollout_pb2.FINISH_REASON_ABORT, unscored="no_tokens")


@pytest.mark.parametrize("end", ["reward", "unscored", "silence"])
async def test_an_agent_elsewhere_takes_an_episode_and_sends_its_reward(model: Path, end: str):
    seconds = 0.05 if end == "silence" else 600.0
    site = Site(model, remote=True, limits={"seconds": seconds})
    playing = asyncio.create_task(site.play())
    await asyncio.sleep(0)
    offer = await site.offers.take(60)
    assert offer is not None
    assert (offer.prompt.prompt_id, offer.prompt.data) == ("p", {"answer": 3})
    if end == "reward":
        await offer.episode.generate(IDS)
        offer.episode.reward.set_result(Score(1.0))
    elif end == "unscored":
        offer.episode.reward.set_exception(RewardError("rollout_failed", "its tool was away"))
    outcome = await playing
    assert (outcome.score, outcome.unscored) == {
        "reward": (Score(1.0), ""),
        "unscored": (None, "rollout_failed"),
        "silence": (None, "limit_seconds"),
    }[end]
