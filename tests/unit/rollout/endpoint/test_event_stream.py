"""Pieces keep their order on the way to the caller, and those that come together go together."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from rollout.endpoint import event_stream
from rollout.episodes.calls import Delta
from tests.tools.fleet_peers import until
from tests.tools.scripted_book import Counted, ScriptedEpisode, answer

ASK = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}


async def events(http: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with http.post("chat/completions", json=ASK) as response:
        lines = (await response.text()).strip().split("\n\n")
    return [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-1]]


async def test_reasoning_after_text_stays_after_it(http: aiohttp.ClientSession, episode: ScriptedEpisode):
    def mixed(on_delta: Any) -> Any:
        for delta in (Delta(reasoning="a"), Delta("b"), Delta(reasoning="c"), Delta("d")):
            on_delta(delta)
        return answer("bd", reasoning_content="ac")

    episode.script = [mixed]
    assert [next(iter(delta.values())) for delta in (await events(http))[1:-1]] == ["a", "b", "c", "d"]


async def test_pieces_that_come_together_are_one_event(http: aiohttp.ClientSession, episode: ScriptedEpisode):
    def quick(on_delta: Any) -> Any:
        for character in "Hello there":
            on_delta(Delta(character))
        return answer("Hello there")

    episode.script = [quick]
    assert await events(http) == [{"role": "assistant", "content": ""}, {"content": "Hello there"}, {}]


async def test_a_caller_who_does_not_read_has_hung_up(
    http: aiohttp.ClientSession, episode: ScriptedEpisode, counted: Counted, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(event_stream, "_READ_S", 0.05)

    def endless(on_delta: Any) -> Any:
        on_delta(Delta("x" * (64 << 20)))  # more than any buffer between the two
        return answer()

    episode.script = [endless]
    response = await http.post("chat/completions", json=ASK)
    try:
        await until(lambda: bool(counted.calls), "count", 30)
    finally:
        response.close()
    assert counted.calls == [("openai", "hung_up")]
