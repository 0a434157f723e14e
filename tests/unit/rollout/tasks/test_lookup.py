"""The task lookup rewards a model that calls the tool with the right key and orders the digits that it finds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from rollout.tasks import load_task
from rollout.tasks.lookup import Lookup
from rollout.tasks.policy import EpisodePolicy


class Scripted:
    """A policy that gives prepared answers and keeps what it was asked."""

    def __init__(self, *answers: Mapping[str, Any]) -> None:
        self.asked: list[list[Mapping[str, Any]]] = []
        self._answers = list(answers)

    async def chat(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> Mapping[str, Any]:
        self.asked.append(list(messages))
        return self._answers.pop(0)


def call(key: str, name: str = "lookup") -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps({"key": key})}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": function}]}


def say(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


async def reward(task: Lookup, policy: Scripted) -> Any:
    return await task.rollout(task.prompt(5), cast(EpisodePolicy, policy))


async def test_the_right_key_and_the_digits_in_order_earn_the_reward():
    task = cast(Lookup, load_task("lookup", 3, {}))
    data = task.prompt(5).data
    policy = Scripted(call(data["key"]), say(data["answer"]))
    assert await reward(task, policy) == 1.0
    assert policy.asked[1][-1] == {"role": "tool", "tool_call_id": "c", "content": data["number"]}
    assert sorted(data["number"]) == list(data["answer"])


@pytest.mark.parametrize("answer", [call("not the key"), call("", "another_tool")])
async def test_any_other_call_finds_nothing(answer: dict[str, Any]):
    task = Lookup(3)
    policy = Scripted(answer, say("12345"))
    assert await reward(task, policy) == 0.0
    assert policy.asked[1][-1]["content"] == "?"


async def test_an_answer_without_the_tool_or_calls_without_end_earn_nothing():
    task = Lookup(3)
    key = task.prompt(5).data["key"]
    assert await reward(task, Scripted(say(key))) == 0.0
    assert await reward(task, Scripted(*[call(key)] * 3)) == 0.0


async def test_its_own_conversation_earns_the_reward():
    task = Lookup(3)
    answers = [message for message in task.conversation(task.prompt(5)) if message["role"] == "assistant"]
    assert await reward(task, Scripted(*answers)) == 1.0
