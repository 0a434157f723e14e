"""The reward http against a server that refuses, hangs, breaks off and lies."""

from __future__ import annotations

import asyncio
import socket
import time
from email.utils import formatdate
from typing import Any

import pytest

from rollout.rewards import patient_call
from rollout.rewards.registry import RewardPart, make_reward
from rollout.rewards.reward_function import RewardPlace
from rollout.tasks.reward_error import RewardError
from tests.tools.fleet_peers import until
from tests.unit.rollout.rewards.judging import asked
from tests.unit.rollout.rewards.scripted_server import Scripted, ScriptedServer


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_call, "_FIRST_PAUSE_S", 0.001)


def reward(server: ScriptedServer | str, limit_s: float = 60.0, **options: Any) -> Any:
    url = server if isinstance(server, str) else f"{server.url}/judge?kind=x"
    made = make_reward(RewardPart("http", options={"url": url, **options}))
    made.prepare(RewardPlace("judge", limit_s))
    return made


async def failed(made: Any) -> tuple[str, str]:
    with pytest.raises(RewardError) as error:
        await made.value(asked("18"))
    return error.value.reason, str(error.value)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (0.5, 0.5),
        (1, 1.0),
        (True, 1.0),
        ({"reward": 0.25}, 0.25),
        ({"reward": {"a": 1, "b": -0.5}}, {"a": 1.0, "b": -0.5}),
    ],
)
async def test_a_number_or_named_numbers_are_the_reward(body: Any, value: Any):
    async with ScriptedServer.open(Scripted(body)) as server:
        assert await reward(server).value(asked("18")) == value


async def test_the_judge_gets_all_that_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    async with ScriptedServer.open(Scripted({"score": 1})) as server:
        made = reward(server, field="score", api_key_env="JUDGE_KEY")
        await made.value(asked("<think>hm</think>18", 18, {"level": 3}, tokens=7, finish="stop"))
        ((headers, body),) = server.requests
    assert headers["authorization"] == "Bearer secret"
    assert body == {
        "prompt_id": "p:0", "prompt": "How many?", "answer": 18, "row": {"level": 3}, "response": "<think>hm</think>18",
        "finished": "18", "tokens": 7, "finish": "stop",
    }  # fmt: skip


@pytest.mark.parametrize(
    "trouble",
    [
        *(Scripted("busy", status) for status in (408, 429, 500, 502, 503, 504, 529)),
        Scripted("busy", 429, {"Retry-After": "0"}),
        Scripted(how="close"),
        Scripted(how="garbage"),
        Scripted(b"no json"),
    ],
    ids=lambda one: f"{one.how}-{one.status}",
)
async def test_what_may_pass_is_tried_again(trouble: Scripted):
    async with ScriptedServer.open(trouble, trouble, Scripted(0.75)) as server:
        assert await reward(server).value(asked("18")) == 0.75
        assert len(server.requests) == 3


async def test_a_try_that_hangs_or_drips_is_given_up_and_made_again():
    async with ScriptedServer.open(Scripted(how="hang"), Scripted(how="drip"), Scripted(0.75)) as server:
        assert await reward(server, timeout_s=0.3).value(asked("18")) == 0.75
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "reason", "message"),
    [
        (Scripted("no", 500), "judge_unavailable", "HTTP 500: b'\"no\"' (3 tries"),
        (Scripted(how="hang"), "judge_unavailable", "no answer within 0.2 s (3 tries"),
        (Scripted(how="drip"), "judge_unavailable", "no answer within 0.2 s (3 tries"),
        (Scripted(how="close"), "judge_unavailable", "RemoteDisconnected"),
        (Scripted(how="garbage"), "judge_unavailable", "no answer of HTTP"),
        (Scripted(b"<html>"), "judge_output", "an answer that is no JSON: b'<html>' (3 tries"),
        (Scripted(b"NaN"), "judge_output", "reward = nan: expected a finite number"),
        (Scripted(b'{"reward": Infinity}'), "judge_output", "reward = inf: expected a finite number"),
        (Scripted({"reward": {"a": "1"}}), "judge_output", "reward.a = '1': expected a finite number"),
        (Scripted({"reward": None}), "judge_output", "reward = None"),
        (Scripted({"reward": {}}), "judge_output", "reward = {}"),
        (Scripted([1.0]), "judge_output", "reward = [1.0]"),
        (Scripted({"score": 1}), "judge_output", "an answer without 'reward'"),
        (Scripted(b"1" + b"0" * 400), "judge_output", "expected a finite number"),
        (Scripted(how="endless"), "judge_output", "an answer of more than 1048576 bytes"),
        (Scripted(b" " * (3 << 20)), "judge_output", "an answer of more than 1048576 bytes"),
    ],
)
async def test_what_does_not_pass_is_unscored_with_a_reason(trouble: Scripted, reason: str, message: str):
    async with ScriptedServer.open(trouble) as server:
        found = await failed(reward(server, timeout_s=0.2 if trouble.how in ("hang", "drip") else 30.0, retries=2))
        assert found[0] == reason
        assert message in found[1]
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (Scripted("who?", 401), "HTTP 401"),
        (Scripted("what?", 400), "HTTP 400"),
        (
            Scripted("", 302, {"Location": "http://elsewhere/"}),
            "HTTP 302 to 'http://elsewhere/': redirects are not followed",
        ),
    ],
)
async def test_a_refusal_is_not_asked_again(trouble: Scripted, message: str):
    async with ScriptedServer.open(trouble) as server:
        found = await failed(reward(server))
        assert found[0] == "judge_unavailable"
        assert message in found[1]
        assert "(1 try" in found[1]
        assert len(server.requests) == 1


async def test_a_judge_that_asks_to_wait_longer_than_the_response_has_is_not_waited_for():
    for wait in ("3600", formatdate(time.time() + 3600, usegmt=True)):
        async with ScriptedServer.open(Scripted("later", 429, {"Retry-After": wait})) as server:
            found = await failed(reward(server))
            assert found[0] == "judge_unavailable"
            assert "it asks to wait 3" in found[1]
            assert len(server.requests) == 1


async def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    reason, message = await failed(reward(url, retries=1))
    assert reason == "judge_unavailable"
    assert "ConnectionRefusedError" in message
    assert "(2 tries" in message


async def test_many_are_asked_at_once_up_to_the_limit():
    async with ScriptedServer.open(Scripted(1.0)) as server:
        server.gate.clear()
        made = reward(server, concurrency=3)
        asking = [asyncio.create_task(made.value(asked(str(number)))) for number in range(9)]
        await until(lambda: len(server.requests) == 3, "three calls at once")
        server.gate.set()
        assert await asyncio.gather(*asking) == [1.0] * 9
        assert server.most_at_once == 3


async def test_whoever_has_no_turn_in_time_is_unscored():
    async with ScriptedServer.open(Scripted(how="hang")) as server:
        made = reward(server, limit_s=2.0, concurrency=1, retries=0, timeout_s=30.0)
        outcomes = await asyncio.gather(failed(made), failed(made))
    assert {reason for reason, _ in outcomes} == {"judge_unavailable"}
    assert any("its turn did not come" in message for _, message in outcomes)
