"""An engine's own account of its load: summed over its ranks, absent on some servers, malformed on none that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from rollout.engine.calls import ServerCalls
from rollout.engine.errors import EngineError
from rollout.engine.load import EngineLoad, read_load
from tests.tools.fleet_peers import ScriptedEngine


@pytest.fixture
async def server() -> AsyncIterator[ScriptedEngine]:
    server = await ScriptedEngine().start()
    yield server
    await server.stop()


async def load_of(server: ScriptedEngine) -> EngineLoad | None:
    async with aiohttp.ClientSession() as session:
        return await read_load(ServerCalls(server.url, session))


def rank(running: int, waiting: int, usage: float, retracted: int, largest: int) -> dict[str, Any]:
    return {
        "num_running_reqs": running, "num_waiting_reqs": waiting, "token_usage": usage, "max_running_requests": largest,
        "queues": {"retracted": retracted},
    }  # fmt: skip


async def test_ranks_are_summed_and_the_fullest_cache_counts(server: ScriptedEngine):
    server.loads = [rank(3, 1, 0.2, 0, 8), rank(4, 0, 0.6, 2, 8)]
    assert await load_of(server) == EngineLoad(running=7, waiting=1, retracted=2, usage=0.6, largest=16)


async def test_a_server_that_cannot_say_has_no_load(server: ScriptedEngine):
    assert await load_of(server) is None
    server.loads = []
    assert await load_of(server) is None


async def test_a_garbled_load_is_an_engine_error(server: ScriptedEngine):
    server.loads = [{"num_running_reqs": "many"}]
    with pytest.raises(EngineError, match="malformed"):
        await load_of(server)
