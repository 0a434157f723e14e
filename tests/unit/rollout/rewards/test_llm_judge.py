"""The reward llm_judge against a scripted server: scores, lies, retries and budgets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rollout.rewards import patient_call
from rollout.rewards.registry import RewardPart, make_reward
from rollout.rewards.reward_function import RewardPlace
from rollout.tasks.reward_error import RewardError
from tests.unit.rollout.rewards.judging import asked
from tests.unit.rollout.rewards.scripted_server import Scripted, ScriptedServer, said


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_call, "_FIRST_PAUSE_S", 0.001)


def judge(server: ScriptedServer, state: Path | None = None, **options: Any) -> Any:
    made = make_reward(RewardPart("llm_judge", options={"base_url": f"{server.url}/v1/", "model": "m", **options}))
    made.prepare(RewardPlace("quality", 60.0, state))
    return made


@pytest.mark.parametrize(
    ("text", "options", "reward"),
    [
        ("Good.\nScore: 7", {}, 0.7),
        ("Score: 3 at first.\n**Score: 10**", {}, 1.0),
        ("**Score:** 5/10", {}, 0.5),
        ("score = 2.5", {}, 0.25),
        ("<think>Score: 9</think>Score: 1", {}, 0.1),
        ("Score: 3", {"low": 1.0, "high": 5.0}, 0.5),
        ("Score: -1", {"low": -1.0, "high": 1.0}, 0.0),
        ("[[4]]", {"pattern": r"\[\[(\d+)\]\]", "high": 5.0}, 0.8),
        ('{"why": "fine", "score": 6}', {"field": "score"}, 0.6),
        ('So:\n```json\n{"score": 6}\n```', {"field": "score"}, 0.6),
    ],
)
async def test_the_score_is_found_and_mapped_to_the_reward(text: str, options: dict[str, Any], reward: float):
    async with ScriptedServer.open(said(text)) as server:
        assert await judge(server, **options).value(asked("18")) == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (said("I like it."), "no score in 'I like it.'"),
        (said("Score: 11"), "the score 11 is not within 0 and 10"),
        (said("Score: -1"), "the score -1 is not within 0 and 10"),
        (said("<think>Score: 5"), "did not finish its reasoning"),
        (said(""), "did not finish its reasoning"),
        (said(None), "a chat completion without text"),
        (Scripted({"choices": []}), "no chat completion"),
        (Scripted(b"{"), "no chat completion"),
        (Scripted([]), "no chat completion"),
    ],
)
async def test_what_is_no_score_is_unscored_and_never_zero(answer: Scripted, message: str):
    async with ScriptedServer.open(answer) as server:
        with pytest.raises(RewardError) as error:
            await judge(server, retries=1).value(asked("18"))
        assert len(server.requests) == 2
    assert error.value.reason == "judge_output"
    assert message in str(error.value)


@pytest.mark.parametrize("text", ['{"score": "9"}', '{"score": NaN}', '{"rating": 9}', "9", "Score: 9"])
async def test_a_field_that_is_no_number_is_unscored(text: str):
    async with ScriptedServer.open(said(text)) as server:
        with pytest.raises(RewardError) as error:
            await judge(server, field="score", retries=0).value(asked("18"))
    assert error.value.reason == "judge_output"


async def test_overload_and_lies_are_tried_again():
    busy, lie = Scripted("busy", 429, {"Retry-After": "0.01"}), said("Score: 99")
    async with ScriptedServer.open(busy, Scripted(how="hang"), lie, Scripted("", 503), said("Score: 8")) as server:
        assert await judge(server, timeout_s=0.3).value(asked("18")) == 0.8
        assert len(server.requests) == 5


async def test_the_judge_sees_question_answer_and_response_without_its_reasoning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    async with ScriptedServer.open(said("Score: 8")) as server:
        made = judge(
            server, api_key_env="JUDGE_KEY", system="Be strict.", template="Q {prompt} A {answer} R {response}",
            max_tokens=5, extra={"seed": 3},
        )  # fmt: skip
        await made.value(asked("<think>hm</think> {answer} {prompt}", ["a", "b"]))
        ((headers, body),) = server.requests
    assert headers["authorization"] == "Bearer secret"
    # What a response says in braces is not filled in.
    turns = [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": 'Q How many? A ["a", "b"] R {answer} {prompt}'},
    ]
    assert body == {"model": "m", "max_tokens": 5, "temperature": 0.0, "seed": 3, "messages": turns}


async def test_unfinished_reasoning_earns_nothing_and_costs_nothing():
    async with ScriptedServer.open(said("Score: 8")) as server:
        assert await judge(server).value(asked("<think>hm")) == 0.0
        assert server.requests == []


async def test_a_budget_of_calls_ends_with_unscored_responses_over_restarts(tmp_path: Path):
    state = tmp_path / "worker-0.environment"
    async with ScriptedServer.open(said("Score: 8")) as server:
        made = judge(server, state, most_calls=2)
        assert [await made.value(asked("18")) for _ in range(2)] == [0.8, 0.8]
        for again in (made, judge(server, state, most_calls=2)):
            with pytest.raises(
                RewardError, match=r"2 calls of the judge are used.*quality\.budget\.json; options\.most_calls = 2"
            ) as error:
                await again.value(asked("18"))
            assert error.value.reason == "judge_budget"
        assert len(server.requests) == 2
        assert await judge(server, state, most_calls=3).value(asked("18")) == 0.8


async def test_a_budget_of_tokens_counts_what_the_judge_says_and_calls_that_were_wasted(tmp_path: Path):
    state = tmp_path / "worker-0.environment"
    async with ScriptedServer.open(said("nothing", 40), said("Score: 8", 60)) as server:
        made = judge(server, state, most_tokens=100)
        assert await made.value(asked("18")) == 0.8
        with pytest.raises(RewardError, match="100 tokens of the judge are used"):
            await made.value(asked("18"))


async def test_a_budget_holds_for_calls_at_once(tmp_path: Path):
    async with ScriptedServer.open(said("Score: 8")) as server:
        made = judge(server, tmp_path / "w", most_calls=5)
        outcomes = await asyncio.gather(*(made.value(asked("18")) for _ in range(20)), return_exceptions=True)
        assert sum(one == 0.8 for one in outcomes) == 5 == len(server.requests)
