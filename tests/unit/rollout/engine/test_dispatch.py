"""Streamed responses on scripted engines: what has arrived is kept when an engine dies, aborts or is refitted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rollout.engine import health_check, lane
from rollout.engine import replica as replica_module
from rollout.engine.errors import EngineError, NotFiniteError
from rollout.engine.pool import EnginePool
from rollout.engine.response import Response, VersionSpan
from rollout.engine.sampling import Sampling
from rollout.versions.verifier import Version
from tests.tools.engine_pools import Observed, serving
from tests.tools.fleet_peers import ScriptedEngine, until

PROMPT = [14, 1]
SAMPLING = Sampling(temperature=1.0, max_new_tokens=6, stop_ids=(12,))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "_EVERY_S", 0.1)
    monkeypatch.setattr(health_check, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(lane, "_REST_S", 0.01)
    monkeypatch.setattr(replica_module, "_LOAD_EVERY_S", 0.02)


def count_up(prompt: list[int]) -> list[int]:
    """Goes on counting after the last token of the prompt: whoever continues must know what came before."""
    return [*range(prompt[-1] + 1, 8), 12]


@pytest.fixture
async def servers() -> AsyncIterator[list[ScriptedEngine]]:
    servers = [await ScriptedEngine().start() for _ in range(2)]
    for server in servers:
        server.answer, server.finish = count_up, lambda _: {"type": "stop", "matched": 12}
    yield servers
    for server in servers:
        with contextlib.suppress(AssertionError):
            await server.stop()


class Once:
    """Ends one response, at the first engine that has sent so many tokens of one; further ones run through."""

    def __init__(self, after: int, end: dict[str, Any] | bool) -> None:
        self.after, self.end, self.done = after, end, False

    async def __call__(self, body: dict[str, Any], sent: int) -> dict[str, Any] | bool:
        if self.done or sent < self.after:
            return False
        self.done = True
        return self.end


def bodies(servers: list[ScriptedEngine]) -> list[dict[str, Any]]:
    return [body for server in servers for body in server.bodies if "input_ids" in body]


async def generate_one(pool: EnginePool, sampling: Sampling = SAMPLING, **arguments: Any) -> Response:
    return await asyncio.wait_for(pool.generate_one(PROMPT, sampling, **arguments), 60)


@pytest.mark.parametrize("end", [True, {"type": "abort", "message": "gone"}, {"type": "abort", "status_code": 500}])
async def test_a_response_goes_on_from_what_has_arrived(
    tmp_path: Path, servers: list[ScriptedEngine], end: dict[str, Any] | bool
):
    seen: list[int] = []
    once = Once(3, end)
    for server in servers:
        server.step = once
    async with serving(tmp_path, servers, Observed()) as pool:
        response = await generate_one(pool, Sampling(1.0, 7, (12,)), on_tokens=seen.extend)
    assert response == Response([2, 3, 4, 5, 6, 7, 12], "stop", [VersionSpan(3, 0, 7)], stopped_by=12)
    assert seen == response.tokens
    asked = [(body["input_ids"], body["sampling_params"]["max_new_tokens"]) for body in bodies(servers)]
    assert sorted(asked, key=len) == [([14, 1], 7), ([14, 1, 2, 3, 4], 4)]
    assert (pool.tokens.received, pool.tokens.continued, sum(pool.tokens.discarded.values())) == (7, 1, 0)


async def test_a_response_that_another_version_goes_on_with_says_so(tmp_path: Path, servers: list[ScriptedEngine]):
    server = servers[0]
    server.step = once = Once(2, True)
    async with serving(tmp_path, server, Observed()) as pool:

        async def refit_and_break(body: dict[str, Any], sent: int) -> dict[str, Any] | bool:
            if sent == 2 and not once.done:
                (tmp_path / "next").mkdir()
                (tmp_path / "next/manifest.json").write_text("{}")
                await pool.load(Version(4, tmp_path / "next"))
                await until(lambda: pool.running_version() == 4, "version 4")
            return await once(body, sent)

        server.step = refit_and_break
        response = await generate_one(pool)
    assert response.tokens == [2, 3, 4, 5, 6, 7]
    assert response.spans == [VersionSpan(3, 0, 2), VersionSpan(4, 2, 6)]


async def test_a_refit_that_retracts_goes_through_a_stream(tmp_path: Path, servers: list[ScriptedEngine]):
    server = servers[0]
    async with serving(tmp_path, server, Observed()) as pool:

        async def refit(_: dict[str, Any], sent: int) -> bool:
            if sent == 2:
                (tmp_path / "next").mkdir()
                (tmp_path / "next/manifest.json").write_text("{}")
                await pool.load(Version(4, tmp_path / "next"))
                await until(lambda: pool.running_version() == 4, "version 4")
            return False

        server.step = refit
        response = await generate_one(pool)
    assert response.spans == [VersionSpan(3, 0, 2), VersionSpan(4, 2, 6)]
    assert len(bodies(servers)) == 1


async def test_a_draining_refit_waits_for_a_stream_and_the_next_response_goes_to_another_engine(
    tmp_path: Path, servers: list[ScriptedEngine]
):
    may_end, begun = asyncio.Event(), asyncio.Event()

    async def hold(_: dict[str, Any], sent: int) -> bool:
        if sent == 2:
            begun.set()
            await may_end.wait()
        return False

    async with serving(tmp_path, servers, Observed(), refit="drain") as pool:
        servers[0].step = servers[1].step = hold
        running = asyncio.create_task(generate_one(pool, affinity="group"))
        await asyncio.wait_for(begun.wait(), 60)
        busy, other = sorted(servers, key=lambda server: "/generate" not in server.calls)
        for server in servers:
            server.calls.clear()
        (tmp_path / "next").mkdir()
        (tmp_path / "next/manifest.json").write_text("{}")
        await pool.load(Version(4, tmp_path / "next"))
        other.step = Once(99, True)
        await until(lambda: other.version == "4", "the other engine's refit")
        assert (await generate_one(pool, affinity="group")).spans == [VersionSpan(4, 0, 6)]
        assert busy.calls == []  # neither the refit nor the response
        may_end.set()
        assert (await asyncio.wait_for(running, 60)).spans == [VersionSpan(3, 0, 6)]
        await until(lambda: busy.version == "4", "the refit")


async def test_a_stop_text_ends_the_response_and_the_request(tmp_path: Path, servers: list[ScriptedEngine]):
    server = servers[0]

    async def slow(body: dict[str, Any], sent: int) -> bool:
        if sent > 3:
            await until(lambda: body["rid"] in server.aborted, "the abort")
        return False

    server.step = slow
    async with serving(tmp_path, server, Observed()) as pool:
        response = await generate_one(pool, Sampling(1.0, 7, (12,), stop=("de",)))  # of abcdefgh
        batch = await asyncio.wait_for(pool.generate([PROMPT] * 2, Sampling(1.0, 7, (12,), stop=("cd",))), 60)
    assert response == Response([2, 3, 4], "stop", [VersionSpan(3, 0, 3)], stop_text="de")
    assert [one.tokens for one in batch] == [[2, 3], [2, 3]]
    assert "stop" not in server.bodies[-1]["sampling_params"]
    assert pool.tokens.discarded["stop_text"] == pool.tokens.received - 7


async def test_tokens_of_logits_that_were_not_finite_are_in_no_response(tmp_path: Path, servers: list[ScriptedEngine]):
    servers[0].finish = lambda _: {"type": "stop", "matched": "NaN happened"}
    observed = Observed()
    async with serving(tmp_path, servers[0], observed) as pool:
        with pytest.raises(NotFiniteError):
            await generate_one(pool)
        await until(lambda: "dead" in observed.states, "end of the engine")
    assert pool.tokens.discarded["nan"] == 5  # the last piece has not been counted in


async def test_a_response_nobody_wants_is_stopped_on_the_engine(tmp_path: Path, servers: list[ScriptedEngine]):
    begun = asyncio.Event()

    async def hold(_: dict[str, Any], sent: int) -> bool:
        if sent == 2:
            begun.set()
            await asyncio.sleep(3600)
        return False

    servers[0].step = hold
    async with serving(tmp_path, servers[0], Observed()) as pool:
        running = asyncio.create_task(pool.generate_one(PROMPT, SAMPLING))
        await asyncio.wait_for(begun.wait(), 60)
        await until(lambda: pool.lanes.responses() == [1], "the response")
        running.cancel()
        await until(lambda: bool(servers[0].aborted), "the abort")
        assert servers[0].aborted == [servers[0].bodies[-1]["rid"]]
        await until(lambda: pool.tokens.discarded["cancelled"] > 0, "the count")


async def test_a_full_engine_is_waited_for_and_a_group_goes_to_its_engine(
    tmp_path: Path, servers: list[ScriptedEngine]
):
    may_end = asyncio.Event()

    async def hold(_: dict[str, Any], sent: int) -> bool:
        if sent == 1:
            await may_end.wait()
        return False

    async with serving(tmp_path, servers, Observed(), max_running=2) as pool:
        for server in servers:
            server.step = hold
        running = [asyncio.create_task(generate_one(pool, affinity=group)) for group in ("a", "b", "a", "b", "a")]
        await until(lambda: pool.lanes.waiting == 1, "the fifth response")
        await until(lambda: [len(bodies([server])) for server in servers] == [2, 2], "the others")
        assert pool.lanes.responses() == [2, 2]
        may_end.set()
        assert {one.finish for one in await asyncio.gather(*running)} == {"stop"}


async def test_every_response_of_a_group_goes_to_the_engine_of_its_first(tmp_path: Path, servers: list[ScriptedEngine]):
    prompts = {"a": [14, 1], "b": [14, 2]}
    async with serving(tmp_path, servers, Observed()) as pool:
        for groups in ("ab", "ba", "ba"):  # by load alone the first of each pair would get the first engine
            requests = (pool.generate_one(prompts[group], SAMPLING, group) for group in groups)
            await asyncio.wait_for(asyncio.gather(*requests), 60)
        asked = [[body["input_ids"] for body in bodies([server])] for server in servers]
    assert asked == [[[14, 1]] * 3, [[14, 2]] * 3]


async def test_an_engine_that_fails_again_and_again_but_gets_further_is_asked_on(
    tmp_path: Path, servers: list[ScriptedEngine]
):
    async def one_token_each(_: dict[str, Any], sent: int) -> bool:
        return sent == 1

    for server in servers:
        server.step = one_token_each
    async with serving(tmp_path, servers, Observed()) as pool:
        response = await generate_one(pool)
    assert response == Response([2, 3, 4, 5, 6, 7], "stop", [VersionSpan(3, 0, 6)], stopped_by=12)


async def test_a_busy_engine_is_asked_again_without_limit_and_gets_fewer_responses(
    tmp_path: Path, servers: list[ScriptedEngine]
):
    server, observed = servers[0], Observed()
    refusals = iter([web.Response(status=503, headers={"Retry-After": "0"}) for _ in range(5)])
    server.reply = lambda _: next(refusals, None)
    async with serving(tmp_path, server, observed) as pool:
        response = await generate_one(pool)
        assert pool.lanes.limits() < [32]
    assert response.tokens == [2, 3, 4, 5, 6, 7]
    assert observed.failures == ["busy"] * 5


async def test_a_request_that_no_engine_gets_further_with_ends(tmp_path: Path, servers: list[ScriptedEngine]):
    async def always(_: dict[str, Any], sent: int) -> bool:
        return sent == 0

    servers[0].step, servers[0].piece = always, 0
    servers[0].answer = lambda _: [1]
    async with serving(tmp_path, servers[0], Observed()) as pool:
        with pytest.raises(EngineError, match="generate"):
            await generate_one(pool)


async def test_a_response_that_is_aborted_again_and_again_is_an_aborted_one(
    tmp_path: Path, servers: list[ScriptedEngine]
):
    async def always(body: dict[str, Any], sent: int) -> dict[str, Any] | bool:
        return {"type": "abort", "message": "out of memory"}

    servers[0].step, servers[0].piece = always, 0
    async with serving(tmp_path, servers[0], Observed()) as pool:
        response = await generate_one(pool)
    assert (response.finish, response.tokens, response.message) == ("abort", [], "out of memory")


async def test_the_engines_own_load_sets_the_limit(tmp_path: Path, servers: list[ScriptedEngine]):
    server, may_end = servers[0], asyncio.Event()
    rank = {"num_running_reqs": 32, "num_waiting_reqs": 0, "token_usage": 0.1, "max_running_requests": 40}
    server.loads = [{**rank, "queues": {"retracted": 0}}]

    async def hold(_: dict[str, Any], sent: int) -> bool:
        if sent == 1:
            await may_end.wait()
        return False

    server.step = hold
    async with serving(tmp_path, server, Observed()) as pool:
        running = [asyncio.create_task(generate_one(pool)) for _ in range(60)]
        await until(lambda: pool.lanes.limits() == [40], "growth up to what the engine runs")
        server.loads = [{**rank, "queues": {"retracted": 2}}]
        await until(lambda: pool.lanes.limits() == [20], "the fall")
        may_end.set()
        await asyncio.gather(*running)
