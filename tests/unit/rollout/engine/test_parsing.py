"""What the engine's parsers are asked, and what becomes of their answers; tests/e2e/test_engine.py asks real ones."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.engine.errors import EngineError
from rollout.engine.parsing import EngineParsers
from tests.tools.engine_pools import Observed, serving
from tests.tools.fleet_peers import ScriptedEngine

TOOL = {"type": "function", "function": {"name": "add"}}


class Asked:
    """Answers one question."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def __call__(self, path: str, body: dict[str, Any]) -> Any:
        self.asked.append((path, body))
        return self.answer


async def test_tool_calls_are_asked_for_by_text_and_tools():
    answer = {"normal_text": "Well.", "calls": [{"tool_index": 0, "name": "add", "parameters": '{"n": 1}'}]}
    asked = Asked(answer)
    assert await EngineParsers(asked).tool_calls("mistral", "text", (TOOL,)) == ("Well.", [("add", '{"n": 1}')])
    assert asked.asked == [
        ("/parse_function_call", {"text": "text", "tools": [TOOL], "tool_call_parser": "mistral"}),
    ]


async def test_reasoning_is_asked_for_by_text():
    asked = Asked({"reasoning_text": "hm", "text": None})
    assert await EngineParsers(asked).reasoning("deepseek-r1", "text") == ("hm", "")
    assert asked.asked == [("/separate_reasoning", {"text": "text", "reasoning_parser": "deepseek-r1"})]


@pytest.mark.parametrize("answer", ["no JSON", {}, {"normal_text": "", "calls": [{}]}, None])
async def test_a_malformed_answer_is_an_error(answer: Any):
    with pytest.raises(EngineError, match="/parse_function_call: malformed answer"):
        await EngineParsers(Asked(answer)).tool_calls("mistral", "text", ())
    with pytest.raises(EngineError, match="/separate_reasoning: malformed answer"):
        await EngineParsers(Asked(answer)).reasoning("deepseek-r1", "text")


async def test_a_pool_asks_an_engine_that_serves(tmp_path):
    server = await ScriptedEngine().start()
    try:
        async with serving(tmp_path, server, Observed()) as pool:
            assert await pool.ask("/generate", {"input_ids": [[1]], "sampling_params": {}})
            with pytest.raises(EngineError, match="/nowhere: HTTP 404"):
                await pool.ask("/nowhere", {})
    finally:
        await server.stop()
