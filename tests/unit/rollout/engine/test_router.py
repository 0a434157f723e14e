"""A pool behind a router: it generates through the router alone, and refits the servers alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout.config import EngineConfig
from rollout.engine import health_check, router
from rollout.engine.response import VersionSpan
from rollout.engine.sampling import Sampling
from tests.tools.engine_pools import Observed, serving
from tests.tools.fleet_peers import ScriptedEngine, until

SAMPLING = Sampling(temperature=1.0, max_new_tokens=4, stop_ids=(12,))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "_EVERY_S", 0.1)
    monkeypatch.setattr(health_check, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(router, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
async def servers() -> AsyncIterator[list[ScriptedEngine]]:
    """Two servers and, last, what stands for a router in front of them."""
    servers = [await ScriptedEngine().start() for _ in range(3)]
    servers[2].version = "3"
    yield servers
    for server in servers:
        with contextlib.suppress(AssertionError):
            await server.stop()


async def test_generation_goes_through_the_router_and_weights_to_the_servers(
    tmp_path: Path, servers: list[ScriptedEngine]
):
    async with serving(tmp_path, servers[:2], Observed(), router=servers[2].url + "/") as pool:
        one = await asyncio.wait_for(pool.generate_one([1], SAMPLING), 60)
        (other,) = await asyncio.wait_for(pool.generate([[1]], SAMPLING), 60)
    assert one.spans == other.spans == [VersionSpan(3, 0, 2)]
    assert [server.calls for server in servers] == [["/update_weights_from_disk"]] * 2 + [["/generate"] * 2]


async def test_an_answer_of_weights_that_nobody_loaded_has_the_servers_refitted(
    tmp_path: Path, servers: list[ScriptedEngine]
):
    async with serving(tmp_path, servers[:2], Observed(), router=servers[2].url) as pool:
        servers[1].version = "default"  # its own supervisor has restarted it

        def answer(_: dict[str, Any]) -> None:
            servers[2].version = servers[1].version

        servers[2].reply = answer
        response = await asyncio.wait_for(pool.generate_one([1], SAMPLING), 60)
    assert response.spans == [VersionSpan(3, 0, 2)]
    assert servers[0].calls == ["/update_weights_from_disk"]


async def test_a_router_that_comes_back_is_used_again(tmp_path: Path, servers: list[ScriptedEngine]):
    async with serving(tmp_path, servers[:2], Observed(), router=servers[2].url) as pool:
        await servers[2].stop()
        running = asyncio.create_task(pool.generate_one([1], SAMPLING))
        await until(lambda: pool.lanes.waiting == 1, "a response that waits")
        await servers[2].start()
        servers[2].version = "3"
        assert (await asyncio.wait_for(running, 60)).finish == "stop"


@pytest.mark.parametrize(
    ("settings", "said"), [({}, "list its servers"), ({"urls": ["http://a"], "refit": "drain"}, "refit = 'retract'")]
)
def test_a_router_whose_servers_cannot_be_refitted_is_refused(settings: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said):
        EngineConfig.model_validate({"router": "http://r", **settings})
