"""The server whatever is sent to it: never a 500, every error in the form of its API, and no call of a caller who is gone."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollout.config import EpisodeLimits
from rollout.endpoint import request_body
from rollout.endpoint.server import Endpoint
from runtime.settings import SettingsError
from tests.tools.fleet_peers import until
from tests.tools.scripted_book import KEY, Counted, ScriptedEpisode, serve

ASK = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "x"}
PATHS = ("chat/completions", "completions", "messages", "messages/count_tokens", f"episodes/{KEY}/reward")


async def test_health_needs_no_key(endpoint: Endpoint):
    async with aiohttp.ClientSession() as http, http.get(endpoint.url.removesuffix("v1") + "healthz") as response:
        assert (response.status, await response.text()) == (200, "ok\n")


@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages", "messages/count_tokens", "responses"])
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer "}, {"Authorization": "Basic x"}, {"x-api-key": "x"}]
)
async def test_without_the_key_of_an_open_episode_nothing_is_answered(
    endpoint: Endpoint, episode: ScriptedEpisode, path: str, headers: dict[str, str]
):
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{endpoint.url}/{path}", json={"messages": ASK, "max_tokens": 3, "prompt": [1]}) as response,
    ):
        assert response.status == (404 if path == "responses" else 401)
        assert (await response.json())["error"]["message"]
    assert episode.calls == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_path_is_answered_in_the_form_of_an_error(http: aiohttp.ClientSession, method: str):
    async with http.request(method, "embeddings") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"3", b"null", b'"x"', b"\xff\xfe",
        b"[" * 100_000, b'{"messages":' + b"[" * 100_000, b'{"max_tokens": ' + b"9" * 10_000 + b"}",
    ],
    ids=range(10),
)  # fmt: skip
async def test_a_body_that_is_no_json_object_is_refused(http: aiohttp.ClientSession, path: str, body: bytes):
    async with http.post(path, data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["message"]


@pytest.mark.parametrize("odd", [b"NaN", b"-Infinity", b'"\\ud83d"', b'{"\\uDC00": 1}'])
async def test_what_no_template_could_show_is_refused_where_everything_else_is_right(
    http: aiohttp.ClientSession, episode: ScriptedEpisode, odd: bytes
):
    body = b'{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"x": ' + odd + b"}}"
    async with http.post("chat/completions", data=body) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_json")
    assert episode.calls == []


async def test_a_body_that_is_too_large_is_refused(
    episode: ScriptedEpisode, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rollout.endpoint.server.MAX_BODY_BYTES", 1000)
    async with serve(episode, counted, tmp_path) as endpoint, aiohttp.ClientSession() as http:
        body = {"messages": [{"role": "user", "content": "x" * 2000}]}
        async with http.post(endpoint.url + "/chat/completions", json=body, headers={"x-api-key": KEY}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (413, "body_too_large")


async def test_a_body_that_does_not_arrive_is_not_waited_for(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_body, "_ARRIVAL_S", 0.05)
    reader, writer = await asyncio.open_unix_connection(endpoint.socket)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Length: 10\r\n\r\n"
    writer.write(head.encode() + b"{")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    await writer.wait_closed()


_ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    3.5,
    10**40,
    "",
    "x",
    "\x00",
    [],
    [[]],
    {},
    {"type": "text"},
    [{"type": "text"}],
    [None],
]
_GOOD: dict[str, list[Any]] = {
    "messages": [ASK, [*ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]],
    "tools": [TOOLS, [{"name": "f", "input_schema": {}}]],
    "tool_choice": ["auto", {"type": "auto"}, {"type": "function", "function": {"name": "f"}}],
    "max_tokens": [5], "stop": ["x", ["x"]], "stop_sequences": [["x"]], "stream": [True, False],
    "stream_options": [{"include_usage": True}], "prompt": [[1, 2], "x"], "system": ["x", [{"type": "text", "text": "x"}]],
    "temperature": [0.5], "n": [1], "chat_template_kwargs": [{}], "reward": [1.0, {"a": 1}], "unscored": ["x"],
}  # fmt: skip


def _mutated(value: Any, draw: random.Random) -> Any:
    """Returns a value with something odd at a random place in it."""
    if draw.random() < 0.3 or not isinstance(value, (dict, list)) or not value:
        return draw.choice(_ODD)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        return value | {key: _mutated(value[key], draw)}
    index = draw.randrange(len(value))
    return [*value[:index], _mutated(value[index], draw), *value[index + 1 :]]


@pytest.mark.parametrize("path", PATHS)
async def test_odd_bodies_never_make_the_server_fail(
    http: aiohttp.ClientSession, episode: ScriptedEpisode, counted: Counted, path: str
):
    draw = random.Random(path)
    statuses: set[int] = set()
    for _ in range(300):
        names = draw.sample(list(_GOOD), draw.randint(1, 6))
        names += [name for name in ("messages", "prompt", "max_tokens") if draw.random() < 0.6]
        body = {name: draw.choice(_GOOD[name]) for name in names}
        if draw.random() < 0.8:
            body = _mutated(body, draw)
        async with http.post(path, json=body) as response:
            statuses.add(response.status)
            text = await response.text()
            assert response.status in (200, 400, 409), (body, text)
            if response.status != 200:
                assert json.loads(text)["error"]["message"], body
    assert 400 in statuses
    assert "failed" not in {outcome for _, outcome in counted.calls}


async def test_a_fault_of_ours_is_logged_and_counted_and_answered(
    http: aiohttp.ClientSession, episode: ScriptedEpisode, counted: Counted
):
    episode.script = [KeyError("oops")]
    async with http.post("chat/completions", json={"messages": ASK}) as response:
        assert response.status == 500
        assert "KeyError" in (await response.json())["error"]["message"]
    assert counted.calls == [("openai", "failed")]


@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_hangs_up_cancels_the_call(
    http: aiohttp.ClientSession, episode: ScriptedEpisode, counted: Counted, path: str, stream: bool
):
    episode.hangs = True
    body = {"prompt": [1]} if path == "completions" else {"messages": ASK}
    call = asyncio.create_task(http.post(path, json={**body, "max_tokens": 5, "stream": stream}).__aenter__())
    await asyncio.wait_for(episode.begun.wait(), 30)
    call.cancel()
    await asyncio.wait_for(episode.cancelled.wait(), 30)
    await until(lambda: bool(counted.calls), "count", 30)
    assert [outcome for _, outcome in counted.calls] == ["hung_up"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_ends_with_the_episodes_limit_of_seconds(
    episode: ScriptedEpisode, counted: Counted, tmp_path: Path, stream: bool
):
    episode.hangs = True
    limits = EpisodeLimits(seconds=0.05)
    async with serve(episode, counted, tmp_path, limits) as endpoint, aiohttp.ClientSession() as http:
        body = {"messages": ASK, "stream": stream}
        async with http.post(endpoint.url + "/chat/completions", json=body, headers={"x-api-key": KEY}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "episode_limit")
    assert episode.cancelled.is_set()
    assert counted.calls == [("openai", "over_limit")]


async def test_the_socket_of_a_worker_that_was_killed_is_replaced(
    episode: ScriptedEpisode, counted: Counted, tmp_path: Path
):
    (tmp_path / "endpoint.sock").touch()
    async with serve(episode, counted, tmp_path) as endpoint:
        assert endpoint.socket.is_socket()
        assert endpoint.socket.stat().st_mode & 0o777 == 0o600
    assert not endpoint.socket.exists()


@pytest.mark.parametrize("content", [None, " \n"])
async def test_a_token_file_that_has_no_token_is_named(
    episode: ScriptedEpisode, counted: Counted, tmp_path: Path, content: str | None
):
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"endpoint\.remote_token_file = .*token"):
        async with serve(episode, counted, tmp_path, remote_token_file=path):
            pass
