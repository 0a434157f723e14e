"""Adapter versions in engines: new requests use the newest, running ones go on with theirs, and each says which it was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from rollout.engine import adapters, health_check, lane
from rollout.engine.adapters import ServedAdapter, ServerAdapters
from rollout.engine.errors import EngineError, WeightsError
from rollout.engine.prompt_limits import PromptLimits
from rollout.engine.response import VersionSpan
from rollout.engine.sampling import Sampling
from rollout.engine.sglang import Engine
from rollout.versions.verifier import Version
from tests.tools.engine_pools import Observed, serving
from tests.tools.fleet_peers import ScriptedEngine, until

SAMPLING = Sampling(temperature=1.0, max_new_tokens=4, stop_ids=())
OLD, NEW = ServedAdapter("leeway-3-aa", 3), ServedAdapter("leeway-4-bb", 4)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(lane, "_REST_S", 0.01)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedEngine]:
    server = ScriptedEngine()
    server.lora = {}
    await server.start()
    yield server
    with contextlib.suppress(AssertionError):
        await server.stop()


@pytest.fixture
async def engine(server: ScriptedEngine) -> AsyncIterator[Engine]:
    async with aiohttp.ClientSession() as session:
        yield Engine(server.url, session, PromptLimits(vocab_size=16), timeout_s=60.0)


def _all(_: Sequence[int], __: int | None) -> bool:
    return True


async def test_a_running_response_ends_with_its_adapter_while_new_ones_have_the_next(
    server: ScriptedEngine, engine: Engine
):
    await engine.adapters.load(OLD, Path("/old"))
    may_end = asyncio.Event()

    async def step(body: dict, sent: int) -> bool:
        await may_end.wait()
        return False

    server.step = step
    running = asyncio.create_task(engine.generate_one([1], SAMPLING, _all))
    await until(lambda: "/generate" in server.calls, "the request")
    await engine.adapters.load(NEW, Path("/new"))
    assert server.lora == {"leeway-3-aa": "/old", "leeway-4-bb": "/new"}
    (new,) = await engine.generate([[2]], SAMPLING)
    assert (new.spans, server.bodies[-1]["lora_path"]) == ([VersionSpan(4, 0, 2)], "leeway-4-bb")
    assert server.unloaded == []
    may_end.set()
    assert (await running).spans == [VersionSpan(3, 0, 2)]
    assert server.bodies[0]["lora_path"] == "leeway-3-aa"
    await until(lambda: server.unloaded == ["leeway-3-aa"], "the end of the old one")


async def test_an_adapter_waits_for_room_in_the_servers_batches(
    server: ScriptedEngine, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(adapters, "_AT_ONCE", 1)
    await engine.adapters.load(OLD, Path("/old"))
    held = engine.adapters.begin()
    waiting = asyncio.create_task(engine.adapters.room())
    (response,) = await engine.generate([[1]], SAMPLING)  # asked after it
    assert response.spans == [VersionSpan(3, 0, 2)]
    assert not waiting.done()
    engine.adapters.end(held)
    await waiting
    await engine.adapters.load(NEW, Path("/new"))
    assert engine.adapters.begin() == NEW


async def test_a_version_that_is_gone_when_there_is_room_is_not_loaded_but_the_newest_is(
    tmp_path: Path, server: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
):
    observed = Observed()
    monkeypatch.setattr(adapters, "_AT_ONCE", 1)
    may_end, waits, room = asyncio.Event(), asyncio.Event(), ServerAdapters.room

    async def observed_room(self: ServerAdapters) -> None:
        waits.set()
        await room(self)

    async def step(body: dict, sent: int) -> bool:
        await may_end.wait()
        return False

    for version in (4, 5):
        (tmp_path / str(version)).mkdir()
        (tmp_path / str(version) / "manifest.json").write_text("{}")
    async with serving(tmp_path, server, observed, OLD.name) as pool:
        server.step = step
        running = asyncio.create_task(pool.generate_one([1], SAMPLING))
        await until(lambda: "/generate" in server.calls, "the request")
        monkeypatch.setattr(ServerAdapters, "room", observed_room)
        await pool.load(Version(4, tmp_path / "4", NEW.name))
        await asyncio.wait_for(waits.wait(), 60)
        (tmp_path / "4" / "manifest.json").unlink()  # publish.keep versions later
        await pool.load(Version(5, tmp_path / "5", "leeway-5-cc"))
        may_end.set()
        assert (await running).spans == [VersionSpan(3, 0, 2)]
        await until(lambda: pool.running_version() == 5, "version 5")
    assert server.calls.count("/load_lora_adapter") == 2
    assert NEW.name not in server.unloaded
    assert observed.states.count("starting") == 1


async def test_older_adapters_that_an_ended_worker_has_left_are_unloaded(server: ScriptedEngine, engine: Engine):
    later = "leeway-9-ff"  # a worker that is ahead of this one
    server.lora = {OLD.name: "/old", later: "/later", "leeway-3": "/mine", "other-1-aa": "/other", "leeway-x-aa": "/x"}
    await engine.adapters.load(NEW, Path("/new"))
    await until(lambda: server.unloaded == [OLD.name], "the end of the old one")
    assert list(server.lora) == [later, "leeway-3", "other-1-aa", "leeway-x-aa", NEW.name]
    server.lora[OLD.name] = "/old"  # another worker that serves the same server, and is a version behind
    await engine.adapters.load(ServedAdapter("leeway-5-cc", 5), Path("/next"))
    await until(lambda: len(server.unloaded) == 2, "the end of version 4")
    assert server.unloaded == [OLD.name, NEW.name]


async def test_an_adapter_that_another_worker_has_loaded_is_used_and_no_lora_is_said(
    server: ScriptedEngine, engine: Engine
):
    server.lora = {OLD.name: "/old"}
    await engine.adapters.load(OLD, Path("/old"))
    assert engine.adapters.begin() == OLD
    server.lora = None
    with pytest.raises(EngineError, match=r"LoRA is not enabled.*--enable-lora.*engine\.adapters = false"):
        await engine.adapters.load(NEW, Path("/new"))


async def test_an_adapter_on_other_weights_than_the_first_is_an_error_of_the_server(
    server: ScriptedEngine, engine: Engine
):
    await engine.adapters.load(OLD, Path("/old"))
    server.version = "2"
    with pytest.raises(WeightsError, match=r"on weights labelled \['2'\]"):
        await engine.generate([[1]], SAMPLING)
    with pytest.raises(WeightsError, match=r"on weights labelled \['2'\]"):
        await engine.generate_one([1], SAMPLING, _all)


async def test_a_server_that_has_lost_its_adapters_gets_them_again_and_no_prompt_is_blamed(
    tmp_path: Path, server: ScriptedEngine
):
    observed = Observed()
    async with serving(tmp_path, server, observed, OLD.name) as pool:
        assert server.lora == {OLD.name: str(tmp_path)}
        server.lora = {}  # its own supervisor has restarted it
        (response,) = await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
        assert response.spans == [VersionSpan(3, 0, 2)]
        server.lora = {}
        response = await asyncio.wait_for(pool.generate_one([1], SAMPLING), 60)
    assert response.spans == [VersionSpan(3, 0, 2)]
    assert observed.failures == ["restart"] * 2
    assert "/update_weights_from_disk" not in server.calls


async def test_a_full_version_takes_the_place_of_an_adapter(tmp_path: Path, server: ScriptedEngine):
    async with serving(tmp_path, server, Observed(), OLD.name) as pool:
        (tmp_path / "next").mkdir()
        (tmp_path / "next/manifest.json").write_text("{}")
        await pool.load(Version(4, tmp_path / "next"))
        await until(lambda: pool.running_version() == 4, "version 4")
        (response,) = await pool.generate([[1]], SAMPLING)
    assert response.spans == [VersionSpan(4, 0, 2)]
    assert "lora_path" not in server.bodies[-1]
