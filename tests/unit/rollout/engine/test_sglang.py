"""The engine client against a scripted SGLang: spans, refits by mode, and every way an answer can be wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from rollout.engine.errors import (
    BusyError,
    EngineError,
    NotFiniteError,
    UnattributedError,
    WeightsError,
)
from rollout.engine.prompt_limits import PromptLimits
from rollout.engine.response import Response, VersionSpan
from rollout.engine.sampling import Sampling
from rollout.engine.sglang import Engine
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
        yield Engine(server.url, session, PromptLimits(vocab_size=16), timeout_s=60.0)


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


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 1), (2, 3)],  # a gap inside
        [(1, 3)],
        [(0, 2)],  # the last token
        [(0, 2), (1, 3)],  # a token of two versions
        [(0, 4)],
        [(1, 1)],
    ],
)
async def test_tokens_that_no_version_or_more_than_one_generated_are_an_engine_error(
    server: ScriptedEngine, engine: Engine, spans: list[tuple[int, int]]
):
    """A token in no span would carry no loss, silently."""
    server.version = "7"
    server.answer = lambda _: [4, 5, 12]
    server.spans = [{"version": "7", "start": start, "end": end} for start, end in spans]
    with pytest.raises(EngineError, match=r"spans .* do not cover the 3 tokens of a response once each") as raised:
        await engine.generate([[1]], SAMPLING)
    assert raised.value.failure == "spans"


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
    with pytest.raises(WeightsError, match="answered with weights labelled 'default'"):
        await engine.generate([[1]], SAMPLING)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([16], "token id 16 is outside the vocabulary [0, 16)"),
        ([-1], "token id -1 is outside the vocabulary [0, 16)"),
        ([], "the prompt is empty"),
    ],
)
async def test_prompts_that_would_kill_the_server_never_reach_it_and_void_no_other(
    server: ScriptedEngine, engine: Engine, prompt: list[int], said: str
):
    server.version = "3"
    before, refused, after = await engine.generate([[1], prompt, [2]], SAMPLING)
    assert refused == Response([], "refused", [], message=said)
    assert (before.finish, after.finish) == ("stop", "stop")
    assert server.bodies[-1]["input_ids"] == [[1], [2]]


async def test_a_prompt_that_is_too_long_for_the_server_is_known_before_and_voids_no_other(
    server: ScriptedEngine, engine: Engine
):
    server.version = "3"
    server.info = {"context_length": 12, "max_req_input_len": 5}
    await engine.learn_limits()
    short, no_room, no_memory = await engine.generate([[1] * 4, [1] * 6, [1] * 5], SAMPLING)
    assert short.finish == "stop"
    assert (no_room.finish, no_memory.finish) == ("too_long", "too_long")
    assert "6 tokens, and sampling.max_new_tokens = 7" in no_room.message
    assert "memory for prompts of 4" in no_memory.message
    assert server.bodies[-1]["input_ids"] == [[1] * 4]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_prompt_that_the_server_refuses_voids_no_other(server: ScriptedEngine, engine: Engine, status: int):
    server.version = "3"
    refuse = lambda body: web.Response(status=status, text="too long") if [9] in body["input_ids"] else None  # noqa: E731
    server.reply = refuse
    prompts = [[1], [1], [2], [2], [9], [9], [3], [3]]
    answers = await engine.generate(prompts, SAMPLING)
    assert [answer.finish for answer in answers] == ["stop"] * 4 + ["refused"] * 2 + ["stop"] * 2
    assert f"HTTP {status}: too long" in answers[4].message
    asked = [body["input_ids"] for body in server.bodies]
    # in halves, and never the same prompt apart from itself: what is wrong with one is wrong with all
    assert asked == [prompts, prompts[:4], prompts[4:], [[9], [9]], [[3], [3]]]


async def test_a_request_that_is_too_large_as_a_whole_is_sent_in_parts(server: ScriptedEngine, engine: Engine):
    server.version = "3"
    server.reply = lambda body: web.Response(status=413) if len(body["input_ids"]) > 1 else None
    answers = await engine.generate([[1], [1], [1]], SAMPLING)
    assert [answer.finish for answer in answers] == ["stop"] * 3


@pytest.mark.parametrize(
    ("status", "failure"), [(500, "status"), (401, "status"), (429, "busy"), (503, "busy"), (200, "malformed")]
)
async def test_a_failed_request_says_what_failed(server: ScriptedEngine, engine: Engine, status: int, failure: str):
    server.reply = lambda _: web.Response(status=status, text="{", headers={"Retry-After": "7"})
    with pytest.raises(EngineError, match="/generate") as raised:
        await engine.generate([[1]], SAMPLING)
    assert raised.value.failure == failure
    assert isinstance(raised.value, BusyError) == (failure == "busy")
    if isinstance(raised.value, BusyError):
        assert raised.value.retry_after_s == 7.0


@pytest.mark.parametrize("answer", [[], [{}], ["text"], {"output_ids": [1]}, [{"meta_info": None}]])
async def test_a_garbled_answer_is_an_engine_error(server: ScriptedEngine, engine: Engine, answer):
    server.reply = lambda _: web.json_response(answer)
    with pytest.raises(EngineError, match="/generate") as raised:
        await engine.generate([[1]], SAMPLING)
    assert raised.value.failure == "malformed"


async def test_answers_that_name_no_version_are_a_mistake_of_the_set_up(server: ScriptedEngine, engine: Engine):
    meta = {"finish_reason": {"type": "stop"}}
    server.reply = lambda _: web.json_response([{"output_ids": [1, 12], "meta_info": meta}])
    with pytest.raises(UnattributedError, match=r"have no meta_info\.weight_versions.*SGLang servers of release"):
        await engine.generate([[1]], SAMPLING)
    server.version = None  # type: ignore[assignment]
    with pytest.raises(UnattributedError, match="have no weight_version at /model_info"):
        await engine.weights.label()


async def test_a_server_that_says_nothing_is_an_engine_error(server: ScriptedEngine):
    server.status = 0
    async with aiohttp.ClientSession() as session:
        with pytest.raises(EngineError, match="/generate"):
            await Engine(server.url, session, PromptLimits(vocab_size=16), timeout_s=0.1).generate([[1]], SAMPLING)


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
    assert await engine.weights.refit(3, Path("/weights/weight_v000003"), mode) > 0
    assert server.calls == calls
    assert {"model_path": "/weights/weight_v000003", "weight_version": "3", "flush_cache": flush} in server.bodies
    assert await engine.weights.label() == "3"


async def test_a_failed_refit_lets_the_engine_go_on_and_is_an_engine_error(server: ScriptedEngine, engine: Engine):
    server.update_status = 400
    with pytest.raises(EngineError, match="refit to version 3 failed"):
        await engine.weights.refit(3, Path("/nowhere"), "retract")
    assert server.calls[-1] == "/continue_generation"


async def test_a_refit_that_did_not_take_is_an_engine_error(server: ScriptedEngine, engine: Engine, monkeypatch):
    async def unchanged() -> str:
        return "2"

    monkeypatch.setattr(engine.weights, "label", unchanged)
    with pytest.raises(EngineError, match="weight_version is '2' after the refit to version 3"):
        await engine.weights.refit(3, Path("/w"), "drain")
