"""OpenAI's API as the installed `openai` client sees it, unmodified, over TCP and over the unix socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import openai
import pytest
from openai import AsyncOpenAI

from rollout.endpoint.server import Endpoint
from rollout.episodes.calls import Delta
from rollout.episodes.errors import ChatRequestError, EngineAbortedError, EpisodeLimitError
from tests.tools.scripted_book import KEY, Counted, ScriptedEpisode, answer, calling

ASK: list[Any] = [{"role": "user", "content": "How warm is it in Kyiv?"}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather now.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture(params=["tcp", "unix"])
async def client(endpoint: Endpoint, request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    unix = httpx.AsyncHTTPTransport(uds=str(endpoint.socket)) if request.param == "unix" else None
    http = httpx.AsyncClient(transport=unix) if unix else httpx.AsyncClient()
    url = "http://worker/v1" if unix else endpoint.url
    async with AsyncOpenAI(base_url=url, api_key=KEY, http_client=http, timeout=60) as client:
        yield client


async def test_an_episode_of_two_turns_with_a_tool(client: AsyncOpenAI, episode: ScriptedEpisode):
    episode.script = [calling("weather", '{"city":"Kyiv"}', "Let me see."), answer("It is 21 degrees.")]
    messages = list(ASK)
    first = await client.chat.completions.create(model="any", messages=messages, tools=WEATHER)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    messages += [
        message.model_dump(),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": [{"type": "text", "text": "21"}]},
    ]
    second = await client.chat.completions.create(model="any", messages=messages, tools=WEATHER)
    assert second.choices[0].message.content == "It is 21 degrees."
    asked = episode.calls[1]
    assert asked.tools == WEATHER
    assert asked.messages == [
        ASK[0],
        calling("weather", '{"city":"Kyiv"}', "Let me see.").message,
        {"role": "tool", "tool_call_id": "call_1", "content": "21"},
    ]


async def test_an_answer_has_its_usage_and_what_our_own_client_reads(client: AsyncOpenAI):
    made = await client.chat.completions.create(model="any", messages=ASK)
    assert made.model == "policy"
    assert made.usage
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (11, 4, 15)
    assert made.model_extra is not None
    assert made.model_extra["leeway"] == {
        "token_ids": [5, 6, 7, 2],
        "prompt_tokens": 11,
        "versions": [[7, 0, 2], [8, 2, 4]],
        "segment": 0,
        "continued": False,
    }


async def test_every_parameter_that_is_obeyed_reaches_the_episode(client: AsyncOpenAI, episode: ScriptedEpisode):
    await client.chat.completions.create(
        model="any",
        messages=[{"role": "developer", "content": "Be brief."}, *ASK],
        tools=WEATHER,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        stop=["\n", "END"],
        max_completion_tokens=9,
        n=1,
        user="someone",
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    [call] = episode.calls
    assert call.messages[0] == {"role": "system", "content": "Be brief."}
    assert (call.tool_choice, call.stop, call.max_tokens) == ("weather", ("\n", "END"), 9)
    assert call.template == {"enable_thinking": False}


async def test_a_stream_has_role_reasoning_content_tool_calls_and_usage(client: AsyncOpenAI, episode: ScriptedEpisode):
    made = calling("weather", '{"city":"Kyiv"}', "Let me see.")
    made.message["reasoning_content"] = "Which city?"
    episode.script = [made]
    stream = await client.chat.completions.create(
        model="any", messages=ASK, tools=WEATHER, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas) == "Which city?"
    assert "".join(delta.content or "" for delta in deltas) == "Let me see."
    order = [
        "reasoning" if (delta.model_extra or {}).get("reasoning_content") else "content" if delta.content else "call"
        for delta in deltas[1:-1]
    ]
    assert order == sorted(order, key=["reasoning", "content", "call"].index)
    [call] = [call for delta in deltas for call in delta.tool_calls or ()]
    assert call.function
    assert (call.index, call.id, call.function.name, call.function.arguments) == (
        0,
        "call_1",
        "weather",
        '{"city":"Kyiv"}',
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["tool_calls"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 15
    assert (chunks[-2].model_extra or {})["leeway"]["token_ids"] == [5, 6, 7, 2]


async def test_a_stream_ends_with_done(http: aiohttp.ClientSession):
    async with http.post("chat/completions", json={"messages": ASK, "stream": True}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = (await response.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all("usage" not in json.loads(line.removeprefix("data: ")) for line in lines[:-2])


async def test_text_that_no_piece_had_comes_with_the_end(client: AsyncOpenAI, episode: ScriptedEpisode):
    def half(on_delta: Any) -> Any:
        on_delta(Delta("Hello "))
        return answer("Hello there")

    episode.script = [half]
    stream = await client.chat.completions.create(model="any", messages=ASK, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello there"


async def test_a_limit_is_an_error_that_the_client_does_not_try_again(
    client: AsyncOpenAI, episode: ScriptedEpisode, counted: Counted
):
    episode.script = [EpisodeLimitError("turns", "the episode has had its 64 turns")] * 3
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="any", messages=ASK)
    assert (caught.value.code, len(episode.calls)) == ("episode_limit", 1)
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="any", messages=ASK, stream=True)
    assert counted.calls == [("openai", "over_limit")] * 2


async def test_a_call_that_an_engine_gave_up_is_made_again_by_the_client(
    client: AsyncOpenAI, episode: ScriptedEpisode, counted: Counted
):
    episode.script = [EngineAbortedError("the engine gave it up"), answer("Here.")]
    made = await client.chat.completions.create(model="any", messages=ASK)
    assert made.choices[0].message.content == "Here."
    assert counted.calls == [("openai", "failed"), ("openai", "answered")]


async def test_an_error_within_a_stream_is_raised_by_the_client(client: AsyncOpenAI, episode: ScriptedEpisode):
    def fail(on_delta: Any) -> Any:
        on_delta(Delta("Hel"))
        raise EpisodeLimitError("tokens", "the episode has no tokens left")

    episode.script = [fail]
    stream = await client.chat.completions.create(model="any", messages=ASK, stream=True)
    with pytest.raises(openai.APIError, match="no tokens left") as caught:
        _ = [chunk async for chunk in stream]
    assert caught.value.code == "episode_limit"


async def test_what_the_template_refuses_is_a_bad_request(client: AsyncOpenAI, episode: ScriptedEpisode):
    episode.script = [ChatRequestError("messages: the template wants user and assistant in turns")]
    with pytest.raises(openai.BadRequestError, match="in turns"):
        await client.chat.completions.create(model="any", messages=ASK)


async def test_an_unknown_key_is_an_authentication_error(endpoint: Endpoint, counted: Counted):
    async with AsyncOpenAI(base_url=endpoint.url, api_key="another") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="any", messages=ASK)
    assert caught.value.code == "invalid_api_key"
    assert counted.calls == [("openai", "unauthorized")]


async def test_token_ids_in_token_ids_out(client: AsyncOpenAI, episode: ScriptedEpisode):
    made = await client.completions.create(model="any", prompt=[3, 4, 5], max_tokens=6, stop="END")
    assert (made.choices[0].text, made.choices[0].finish_reason) == ("Hello there", "stop")
    assert (made.model_extra or {})["leeway"]["token_ids"] == [5, 6, 7, 2]
    await client.completions.create(model="any", prompt="ab")
    assert episode.calls == [([3, 4, 5], 6, ("END",)), ([97, 98], None, ())]


async def test_completions_stream(client: AsyncOpenAI):
    stream = await client.completions.create(
        model="any", prompt=[3], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "Hello there"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 4


@pytest.mark.parametrize("prompt", [[[1, 2]], [[1], [2]], ["a", "b"], [], "", [True], [-1], [1.5], {"a": 1}, None])
async def test_several_prompts_or_none_are_refused(http: aiohttp.ClientSession, prompt: Any):
    async with http.post("completions", json={"prompt": prompt}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "prompt"


async def test_models(client: AsyncOpenAI):
    assert [model.id async for model in client.models.list()] == ["policy"]
    assert (await client.models.retrieve("policy")).owned_by == "leeway"
    with pytest.raises(openai.NotFoundError, match="policy"):
        await client.models.retrieve("gpt-5")


async def test_the_responses_api_says_what_to_use(client: AsyncOpenAI):
    with pytest.raises(openai.NotFoundError, match="chat_completions"):
        await client.responses.create(model="any", input="Hello")
