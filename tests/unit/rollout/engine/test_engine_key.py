"""Tests of the key between worker and engines, against a scripted server that wants one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from rollout.config import EngineConfig
from rollout.engine.engine_key import EngineKey
from rollout.engine.sampling import Sampling
from rollout.engine.server_process import unreachable
from runtime.settings import SettingsError
from tests.tools.engine_pools import Observed, serving
from tests.tools.fleet_peers import ScriptedEngine

SAMPLING = Sampling(temperature=1.0, max_new_tokens=4, stop_ids=())


def key_file(directory: Path, text: str) -> Path:
    path = directory / "key"
    path.write_text(text)
    return path


async def test_every_call_to_an_engine_presents_the_key(tmp_path: Path):
    server = await ScriptedEngine().start()
    server.key = "one"
    try:
        async with serving(tmp_path, server, Observed(), key_file=key_file(tmp_path, "one\n")) as pool:
            (response,) = await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
    finally:
        await server.stop()
    assert response.finish == "stop"
    assert "/update_weights_from_disk" in server.calls


async def test_an_engine_that_comes_back_with_another_key_is_found_again(tmp_path: Path):
    server = await ScriptedEngine().start()
    server.key = "one"
    observed, path = Observed(), key_file(tmp_path, "one")
    async with serving(tmp_path, server, observed, key_file=path) as pool:
        server.key, server.version = "two", "default"  # it was started again, quicker than its health was asked
        key_file(tmp_path, "two")
        (response,) = await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
        await server.stop()
    assert response.finish == "stop"
    assert observed.states == ["starting", "stale", "serving", "dead", "starting", "stale", "serving"]


async def test_an_engine_that_refuses_the_key_says_which_setting(tmp_path: Path):
    server = await ScriptedEngine().start()
    server.key = "one"
    async with aiohttp.ClientSession() as session:
        EngineKey(key_file(tmp_path, "other"), session)
        problem = await unreachable(session, server.url)
    await server.stop()
    assert problem is not None
    assert "HTTP 401: it wants a key; engine.key_file" in problem


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "ключ"])
async def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(SettingsError, match=r"engine\.key_file = .*key: expected one line of printable ASCII"):
            EngineKey(key_file(tmp_path, text), session)
        with pytest.raises(SettingsError, match=r"engine\.key_file = .*absent"):
            EngineKey(tmp_path / "absent", session)


async def test_a_key_that_cannot_be_read_again_stays(tmp_path: Path):
    async with aiohttp.ClientSession() as session:
        key = EngineKey(key_file(tmp_path, "one"), session)
        (tmp_path / "key").unlink()
        key.refresh()
        assert session.headers["Authorization"] == "Bearer one"


def test_servers_that_are_started_here_have_no_key():
    with pytest.raises(
        SettingsError, match=r"key_file = '/key': servers that are started here .* have no key; set urls"
    ):
        EngineConfig.parse({"key_file": "/key"}, source="test")
