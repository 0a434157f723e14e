"""Anthropic's API: answers, errors and the sequence of events."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from rollout.endpoint.server import Endpoint
from rollout.episodes.calls import Delta
from rollout.episodes.errors import EpisodeLimitError
from tests.tools.scripted_book import KEY, Counted, ScriptedEpisode, answer, calling

ASK: dict[str, Any] = {"model": "any", "max_tokens": 9, "messages": [{"role": "user", "content": "How warm is it?"}]}


async def events(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """The events of a stream; each is named as its type."""
    found = []
    for block in (await response.text()).strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


async def test_an_answer_has_a_block_of_each_kind(http: aiohttp.ClientSession, episode: ScriptedEpisode):
    made = calling("weather", '{"city": "Kyiv"}', "Let me see.")
    made.message["reasoning_content"] = "Which city?"
    episode.script = [made]
    async with http.post("messages", json=ASK) as response:
        body = await response.json()
    assert body["content"] == [
        {"type": "thinking", "thinking": "Which city?", "signature": ""},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Kyiv"}},
    ]
    assert (body["type"], body["role"], body["model"], body["stop_reason"]) == (
        "message",
        "assistant",
        "policy",
        "tool_use",
    )
    assert body["usage"] == {"input_tokens": 11, "output_tokens": 4}
    assert body["leeway"]["token_ids"] == [5, 6, 7, 2]


@pytest.mark.parametrize(("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens")])
async def test_why_it_ended(http: aiohttp.ClientSession, episode: ScriptedEpisode, finish: Any, reason: str):
    episode.script = [answer("", finish)]
    async with http.post("messages", json=ASK) as response:
        body = await response.json()
    assert (body["stop_reason"], body["content"]) == (reason, [])


async def test_the_key_may_come_as_anthropic_sends_it(endpoint: Endpoint):
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as http,
        http.post(endpoint.url + "/messages", json=ASK) as response,
    ):
        assert response.status == 200


async def test_a_stream_has_anthropics_events_in_their_order(http: aiohttp.ClientSession, episode: ScriptedEpisode):
    made = calling("weather", '{"city": "Kyiv"}', "Let me see.")
    made.message["reasoning_content"] = "Which city?"
    episode.script = [made]
    async with http.post("messages", json=ASK | {"stream": True}) as response:
        found = await events(response)
    shown = [
        (event["type"], event.get("index"), event.get("content_block", event.get("delta", {})).get("type"))
        for event in found
    ]
    assert [one for index, one in enumerate(shown) if one not in shown[:index]] == [
        ("message_start", None, None),
        ("ping", None, None),
        ("content_block_start", 0, "thinking"),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "signature_delta"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, "text"),
        ("content_block_delta", 1, "text_delta"),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, "tool_use"),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_stop", 2, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Which city?"
    assert "".join(delta.get("text", "") for delta in deltas) == "Let me see."
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"city": "Kyiv"}
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert found[-2]["usage"] == {"input_tokens": 11, "output_tokens": 4}
    assert found[-2]["leeway"]["versions"] == [[7, 0, 2], [8, 2, 4]]


async def test_errors_have_anthropics_form(http: aiohttp.ClientSession, episode: ScriptedEpisode, counted: Counted):
    episode.script = [EpisodeLimitError("turns", "the episode has had its 64 turns")]
    async with http.post("messages", json=ASK) as response:
        assert (response.status, response.headers["x-should-retry"]) == (400, "false")
        error = {
            "type": "invalid_request_error",
            "message": "the episode has had its 64 turns",
            "code": "episode_limit",
        }
        assert await response.json() == {"type": "error", "error": error}
    async with http.post("messages", json=ASK, headers={"Authorization": "Bearer x"}) as response:
        assert (response.status, (await response.json())["error"]["type"]) == (401, "authentication_error")
    assert counted.calls == [("anthropic", "over_limit"), ("anthropic", "unauthorized")]


async def test_an_error_within_a_stream_is_an_event(http: aiohttp.ClientSession, episode: ScriptedEpisode):
    def fail(on_delta: Any) -> Any:
        on_delta(Delta("Hel"))
        raise EpisodeLimitError("tokens", "the episode has no tokens left")

    episode.script = [fail]
    async with http.post("messages", json=ASK | {"stream": True}) as response:
        last = (await response.text()).strip().split("\n\n")[-1].split("\n")
    assert last[0] == "event: error"
    assert json.loads(last[1].removeprefix("data: "))["error"]["code"] == "episode_limit"


async def test_tokens_are_counted(http: aiohttp.ClientSession, episode: ScriptedEpisode):
    body = {"model": "any", "system": "Be brief.", "messages": ASK["messages"]}
    async with http.post("messages/count_tokens", json=body) as response:
        assert (response.status, await response.json()) == (200, {"input_tokens": 6})
    assert episode.calls == []
