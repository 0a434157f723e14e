"""The engine client against a scripted SGLang: spans, refits by mode, and every way an answer can be wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from rollout.engine.sglang import Engine, EngineError, NotFiniteError, RefusedError, Response, Sampling, VersionSpan
from tests.tools.fleet_peers import ScriptedEngine

SAMPLING = Sampling(temperature=1.0, max_new_tokens=7, stop_ids=(12,))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedEngine]:
    server = await ScriptedEngine().start()
    yield server
    await server.stop()


@pytest.fixture
async def engine(server: ScriptedEngine) -> AsyncIterator[Engine]:
    async with aiohttp.ClientSession() as session:
        yield Engine(server.url, session, vocab_size=16, timeout_s=60.0)


async def test_a_response_says_which_tokens_came_from_which_version(server: ScriptedEngine, engine: Engine):
    server.version = "7"
    server.answer = lambda prompt: [prompt[0], 5, 12]
    # SGLang reports an empty span when the weights changed after a response's last token.
    server.spans = [
        {"version": "6", "start": 0, "end": 2},
        {"version": "7", "start": 2, "end": 3},
        {"version": "8", "start": 3, "end": 3},
    ]
    spans = [VersionSpan(6, 0, 2), VersionSpan(7, 2, 3)]
    answer = await engine.generate([[1, 2], [3]], SAMPLING)
    assert answer == [Response([1, 5, 12], "stop", spans), Response([3, 5, 12], "stop", spans)]
    assert server.bodies[-1] == {
        "input_ids": [[1, 2], [3]],
        "sampling_params": {"temperature": 1.0, "max_new_tokens": 7, "stop_token_ids": [12]},
    }


async def test_a_response_says_what_stopped_it_and_why_it_was_aborted(server: ScriptedEngine, engine: Engine):
    server.version = "3"
    ends = {
        1: {"type": "stop", "matched": 12},
        2: {"type": "length", "length": 2},
        3: {"type": "abort", "message": "out of memory", "status_code": 500, "err_type": None},
    }
    server.finish = lambda prompt: ends[prompt[0]]
    stopped, cut, aborted = await engine.generate([[1], [2], [3]], SAMPLING)
    assert (stopped.finish, stopped.stopped_by) == ("stop", 12)
    assert (cut.finish, cut.stopped_by) == ("length", None)
    assert (aborted.finish, aborted.message) == ("abort", "out of memory")


async def test_a_response_that_was_aborted_before_its_first_token_is_no_malformed_one(
    server: ScriptedEngine, engine: Engine
):
    # never refitted: such a response has no version either
    server.finish = lambda _: {"type": "abort"}
    server.answer = lambda _: []
    assert await engine.generate([[1]], SAMPLING) == [Response([], "abort", [])]


@pytest.mark.parametrize(
    ("finish", "error", "message"),
    [
        ({"type": "stop", "matched": "NaN happened"}, NotFiniteError, "its logits were not finite"),
        ({"type": "stop", "matched": "END"}, EngineError, "ended for a reason that was not asked for"),
        ({"type": "error"}, EngineError, "finish_reason 'error'"),
        ("stop", EngineError, "malformed response"),
    ],
)
async def test_a_response_that_ended_in_no_way_that_was_asked_for_is_an_engine_error(
    server: ScriptedEngine, engine: Engine, finish, error: type[Exception], message: str
):
    server.version = "3"
    server.finish = lambda _: finish
    with pytest.raises(error, match=message):
        await engine.generate([[1]], SAMPLING)


async def test_a_server_that_was_never_refitted_serves_nothing(engine: Engine):
    with pytest.raises(EngineError, match="malformed response"):
        await engine.generate([[1]], SAMPLING)


@pytest.mark.parametrize("prompts", [[[1], [16]], [[-1]], [[]]])
async def test_ids_that_would_kill_the_server_never_reach_it(
    server: ScriptedEngine, engine: Engine, prompts: list[list[int]]
):
    with pytest.raises(RefusedError, match=r"prompts\[\d\]"):
        await engine.generate(prompts, SAMPLING)
    assert server.calls == []


@pytest.mark.parametrize(("status", "error"), [(400, RefusedError), (500, EngineError)])
async def test_refusals_and_failures_are_told_apart(
    server: ScriptedEngine, engine: Engine, status: int, error: type[Exception]
):
    server.status = status
    with pytest.raises(error, match="/generate"):
        await engine.generate([[1]], SAMPLING)


async def test_a_server_that_says_nothing_is_an_engine_error(server: ScriptedEngine):
    server.status = 0
    async with aiohttp.ClientSession() as session:
        with pytest.raises(EngineError, match="/generate"):
            await Engine(server.url, session, vocab_size=16, timeout_s=0.1).generate([[1]], SAMPLING)


async def test_a_server_that_is_gone_is_an_engine_error(server: ScriptedEngine, engine: Engine):
    await server.stop()
    with pytest.raises(EngineError, match="ClientConnectorError"):
        await engine.generate([[1]], SAMPLING)
    await server.start()


@pytest.mark.parametrize(
    ("mode", "calls", "flush"),
    [
        ("drain", ["/update_weights_from_disk"], True),
        ("retract", ["/pause_generation", "/update_weights_from_disk", "/continue_generation"], True),
        ("in_place", ["/pause_generation", "/update_weights_from_disk", "/continue_generation"], False),
    ],
)
async def test_a_refit_pauses_as_told_labels_the_weights_and_checks_the_label(
    server: ScriptedEngine, engine: Engine, mode, calls: list[str], flush: bool
):
    assert await engine.refit(3, Path("/weights/weight_v000003"), mode) > 0
    assert server.calls == calls
    assert {"model_path": "/weights/weight_v000003", "weight_version": "3", "flush_cache": flush} in server.bodies
    assert await engine.label() == "3"


async def test_a_failed_refit_lets_the_engine_go_on_and_is_an_engine_error(server: ScriptedEngine, engine: Engine):
    server.update_status = 400
    with pytest.raises(EngineError, match="refit to version 3 failed"):
        await engine.refit(3, Path("/nowhere"), "retract")
    assert server.calls[-1] == "/continue_generation"


async def test_a_refit_that_did_not_take_is_an_engine_error(server: ScriptedEngine, engine: Engine, monkeypatch):
    async def unchanged() -> str:
        return "2"

    monkeypatch.setattr(engine, "label", unchanged)
    with pytest.raises(EngineError, match="weight_version is '2' after the refit to version 3"):
        await engine.refit(3, Path("/w"), "drain")
