"""A server of another model: refused before anything is sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import Mock

import aiohttp
import pytest

from rollout.config import EngineConfig, WorkerConfig
from rollout.data.demo_model import DemoShape, write_model
from rollout.engine.pool import EnginePool
from rollout.engine.served_model import ServedModelError, require_same_model
from rollout.versions.verifier import Version
from tests.tools.fleet_peers import ScriptedEngine


@pytest.fixture
async def server() -> AsyncIterator[ScriptedEngine]:
    server = await ScriptedEngine().start()
    yield server
    await server.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "ours", 0)
    return tmp_path / "ours"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    write_model(tmp_path / "theirs", 0, DemoShape(layers=1))
    return tmp_path / "theirs"


async def test_what_a_server_says_is_compared_with_the_runs_model(server: ScriptedEngine, model: Path, other: Path):
    async with aiohttp.ClientSession() as session:
        for harmless in ({}, {"model_path": str(model)}, {"model_path": "/not/here", "model_type": "qwen3"}):
            server.model = harmless
            await require_same_model(session, server.url, model)
        server.model = {"model_path": str(other), "model_type": "qwen3"}
        with pytest.raises(ServedModelError, match=r"whose num_hidden_layers is 1; model = .*ours has 2"):
            await require_same_model(session, server.url, model)
        server.model = {"model_path": "/not/here", "model_type": "llama"}
        with pytest.raises(ServedModelError, match="serves /not/here, whose model_type is 'llama'"):
            await require_same_model(session, server.url, model)


async def test_a_pool_sends_nothing_to_a_server_of_another_model(
    server: ScriptedEngine, model: Path, other: Path, tmp_path: Path
):
    server.model = {"model_path": str(other), "model_type": "qwen3"}
    config = WorkerConfig(
        gateway="127.0.0.1:1",
        model=model,
        state_dir=tmp_path,
        log_dir=tmp_path,
        allowed_uris=["file:///w"],
        engine=EngineConfig(urls=[server.url]),
    )
    (model / "manifest.json").write_text("{}")
    async with EnginePool.open(config, 16, Mock()) as pool:
        await pool.load(Version(1, model))
        async with asyncio.timeout(60):
            with pytest.raises(ExceptionGroup) as ended:
                await pool.run()
    assert isinstance(ended.value.exceptions[0], ServedModelError)
    assert server.calls == []
