"""A pool in front of scripted servers over real HTTP: a request that fails is no dead engine, and a dead engine is found."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from rollout.engine import health_check, lane
from rollout.engine.errors import EngineError, UnattributedError
from rollout.engine.sampling import Sampling
from rollout.versions.verifier import Version
from tests.tools.engine_pools import Observed, serving
from tests.tools.fleet_peers import ScriptedEngine, until

SAMPLING = Sampling(temperature=1.0, max_new_tokens=4, stop_ids=())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "_EVERY_S", 0.1)
    monkeypatch.setattr(health_check, "_LIMIT_S", 2.0)
    monkeypatch.setattr(health_check, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(lane, "_REST_S", 0.01)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedEngine]:
    server = await ScriptedEngine().start()
    yield server
    with contextlib.suppress(AssertionError):
        await server.stop()


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_engine_is_asked_again_for_as_long_as_it_lives(
    tmp_path: Path, server: ScriptedEngine, status: int
):
    observed = Observed()
    refusals = iter([web.Response(status=status, headers={"Retry-After": "0"}) for _ in range(8)])
    server.reply = lambda _: next(refusals, None)
    async with serving(tmp_path, server, observed) as pool:
        (response,) = await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
    assert response.finish == "stop"
    assert observed.failures == ["busy"] * 8
    assert "dead" not in observed.states


async def test_a_slow_engine_is_no_dead_engine(tmp_path: Path, server: ScriptedEngine):
    observed = Observed()
    server.status = 0
    async with serving(tmp_path, server, observed, request_timeout_s=0.1) as pool:
        probes = server.probes
        with pytest.raises(EngineError, match="no answer within"):
            await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
        server.status = 200
        (response,) = await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
        assert server.probes > probes  # it was asked, and lives
    assert response.finish == "stop"
    assert observed.failures == ["timeout"] * 3
    assert observed.states == ["starting", "stale", "serving"]


@pytest.mark.parametrize("status", [500, 502])
async def test_a_failed_request_is_repeated_on_an_engine_that_lives(
    tmp_path: Path, server: ScriptedEngine, status: int
):
    observed = Observed()
    answers = iter([web.Response(status=status), web.Response(text="<html>"), None])
    server.reply = lambda _: next(answers, None)
    async with serving(tmp_path, server, observed) as pool:
        (response,) = await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
    assert response.finish == "stop"
    assert observed.failures == ["status", "malformed"]
    assert observed.states == ["starting", "stale", "serving"]


async def test_an_engine_whose_health_fails_is_set_aside_and_refitted_when_it_answers_again(
    tmp_path: Path, server: ScriptedEngine
):
    observed = Observed()
    async with serving(tmp_path, server, observed) as pool:
        server.status = server.health = 500
        request = asyncio.create_task(pool.generate([[1]], SAMPLING))
        await until(lambda: "dead" in observed.states, "end of the engine")
        server.calls.clear()
        server.status = server.health = 200
        (response,) = await asyncio.wait_for(request, 60)
    assert response.finish == "stop"
    assert server.calls[:2] == ["/update_weights_from_disk", "/generate"]


async def test_an_engine_that_has_lost_its_weights_is_refitted_though_it_is_healthy(
    tmp_path: Path, server: ScriptedEngine
):
    observed = Observed()
    async with serving(tmp_path, server, observed) as pool:
        server.version = "default"  # its own supervisor has restarted it
        (response,) = await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
    assert [span.version for span in response.spans] == [3]
    assert observed.failures == ["restart"]


async def test_a_silent_health_during_a_refit_ends_nothing(tmp_path: Path, server: ScriptedEngine):
    """A server that loads weights generates nothing, and its /health says so."""
    observed = Observed()
    async with serving(tmp_path, server, observed) as pool:
        server.may_load.clear()
        server.calls.clear()
        (tmp_path / "next").mkdir()
        (tmp_path / "next/manifest.json").write_text("{}")
        await pool.load(Version(4, tmp_path / "next"))
        await until(lambda: "/update_weights_from_disk" in server.calls, "the refit")
        server.health = 503
        probes = server.probes
        await until(lambda: server.probes >= probes + 6, "six probes in vain")
        server.health = 200
        server.may_load.set()
        await until(lambda: pool.running_version() == 4, "version 4")
    assert observed.states == ["starting", "stale", "serving"]


async def test_answers_without_a_version_end_the_run_of_the_pool_and_no_engine(tmp_path: Path, server: ScriptedEngine):
    observed = Observed()
    meta = {"finish_reason": {"type": "stop"}}
    server.reply = lambda _: web.json_response([{"output_ids": [1, 12], "meta_info": meta}])
    async with serving(tmp_path, server, observed) as pool:
        with pytest.raises(UnattributedError):
            await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
    assert "dead" not in observed.states
