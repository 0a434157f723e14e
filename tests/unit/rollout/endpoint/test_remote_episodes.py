"""Episodes for agents elsewhere: asked for with a token, answered with a key, ended with a reward."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollout.endpoint.server import Endpoint
from rollout.episodes.offers import EpisodeOffer, EpisodeOffers
from rollout.tasks import Prompt
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from tests.tools.scripted_book import KEY, Counted, ScriptedEpisode, serve

TOKEN = "secret-of-agents"


@pytest.fixture
async def offers() -> EpisodeOffers:
    return EpisodeOffers()


@pytest.fixture
async def endpoint(
    episode: ScriptedEpisode, counted: Counted, offers: EpisodeOffers, tmp_path: Path
) -> AsyncIterator[Endpoint]:
    (tmp_path / "token").write_text(TOKEN + "\n")
    async with serve(episode, counted, tmp_path, offers=offers, remote_token_file=tmp_path / "token") as endpoint:
        yield endpoint


@pytest.fixture
async def agent(endpoint: Endpoint) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(endpoint.url + "/", headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield session


def offer(episode: ScriptedEpisode, prompt: Prompt) -> EpisodeOffer:
    return EpisodeOffer(episode, prompt)  # pyright: ignore[reportArgumentType] - the edge of these tests


async def test_an_offer_is_given_to_one_agent(
    agent: aiohttp.ClientSession, episode: ScriptedEpisode, offers: EpisodeOffers, endpoint: Endpoint
):
    prompt = Prompt("q1", messages=[{"role": "user", "content": "1 + 1?"}], data={"answer": 2})
    placed = asyncio.create_task(offers.place(offer(episode, prompt)))
    async with agent.post("episodes") as response:
        assert (response.status, await response.json()) == (
            200,
            {
                "key": KEY,
                "base_url": endpoint.url,
                "model": "policy",
                "prompt_id": "q1",
                "prompt": "",
                "messages": [{"role": "user", "content": "1 + 1?"}],
                "data": {"answer": 2},
                "limits": {"turns": 64, "tokens": None, "seconds": 600.0},
            },
        )
    await asyncio.wait_for(placed, 30)
    async with agent.post("episodes", json={"wait_s": 0}) as response:
        assert response.status == 204


async def test_an_agent_waits_for_an_offer(
    agent: aiohttp.ClientSession, episode: ScriptedEpisode, offers: EpisodeOffers
):
    asked = asyncio.create_task(agent.post("episodes", json={"wait_s": 60}).__aenter__())
    await offers.place(offer(episode, Prompt("q1", "1 + 1?", object())))
    described = await (await asyncio.wait_for(asked, 30)).json()
    assert described["prompt"] == "1 + 1?"
    assert "data" not in described  # it cannot be said in JSON


@pytest.mark.parametrize("wait_s", [-1, 1e9, "3", True])
async def test_how_long_it_waits_has_a_limit(agent: aiohttp.ClientSession, wait_s: Any):
    async with agent.post("episodes", json={"wait_s": wait_s}) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "wait_s")


@pytest.mark.parametrize("token", [KEY, "", "x", "sécret"])
async def test_without_the_token_there_are_none(endpoint: Endpoint, token: str):
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.post(endpoint.url + "/episodes") as response:
        assert response.status == 401


async def test_without_a_token_file_nobody_may(episode: ScriptedEpisode, counted: Counted, tmp_path: Path):
    async with (
        serve(episode, counted, tmp_path) as endpoint,
        aiohttp.ClientSession(headers={"x-api-key": "None"}) as http,
        http.post(endpoint.url + "/episodes") as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (401, "closed")
    assert counted.calls == [("episodes", "unauthorized")]


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"reward": 1}, Score(1.0)),
        ({"reward": {"parts": {"right": 1.0, "brief": 0.5}}}, Score(1.5, {"right": 1.0, "brief": 0.5})),
        ({"reward": {"right": 1.0}}, Score(1.0, {"right": 1.0})),
    ],
)
async def test_an_episode_ends_with_its_reward(
    agent: aiohttp.ClientSession, episode: ScriptedEpisode, body: dict[str, Any], outcome: Score
):
    async with agent.post(f"episodes/{KEY}/reward", json=body) as response:
        assert response.status == 200
    assert episode.reward.result() == outcome
    async with agent.post(f"episodes/{KEY}/reward", json=body) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (409, "already_rewarded")


async def test_an_episode_may_end_without_a_score(agent: aiohttp.ClientSession, episode: ScriptedEpisode):
    async with agent.post(f"episodes/{KEY}/reward", json={"unscored": "the judge was away"}) as response:
        assert response.status == 200
    error = episode.reward.exception()
    assert isinstance(error, RewardError)
    assert (error.reason, str(error)) == ("rollout_failed", "its agent gave it no reward: the judge was away")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"reward": None}, {"reward": "1"}, {"reward": []}, {"reward": {}}, {"reward": 1e999}, {"unscored": ""},
        {"unscored": 3}, {"reward": 1, "unscored": "x"}, {"score": 1}, {"reward": {"parts": {"a": "b"}}},
    ],
)  # fmt: skip
async def test_what_is_no_reward_is_refused_and_the_episode_goes_on(
    agent: aiohttp.ClientSession, episode: ScriptedEpisode, body: dict[str, Any]
):
    async with agent.post(f"episodes/{KEY}/reward", json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["message"]
    assert not episode.reward.done()


async def test_an_episode_that_is_not_open_takes_no_reward(agent: aiohttp.ClientSession):
    async with agent.post("episodes/another/reward", json={"reward": 1}) as response:
        assert response.status == 401
