"""Which parsers read an answer, and the message that they make of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rollout.engine.errors import EngineError, RefusedError
from rollout.episodes.answer_parser import AnswerParser, ParserConfigError
from rollout.episodes.tool_call import ToolCall
from tests.tools.chat_model import TEMPLATES

ADD = {"type": "function", "function": {"name": "add"}}
HERMES = '<tool_call>{"name": "add", "arguments": {"é": 1}}</tool_call>'
LLAMA = '{"name": "add", "parameters": {"é": 1}}'
CALLS = [ToolCall("add", {"é": 1})]


class Elsewhere:
    """Parsers of an engine that answer as they are told, or fail."""

    def __init__(self, calls: Any = (), reasoning: Any = ("", "")) -> None:
        self.calls, self.thought = calls, reasoning
        self.asked: list[tuple[Any, ...]] = []

    async def tool_calls(self, parser: str, text: str, tools: Any) -> tuple[str, list[tuple[str, Any]]]:
        self.asked.append((parser, text, tools))
        if isinstance(self.calls, Exception):
            raise self.calls
        return "rest", list(self.calls)

    async def reasoning(self, parser: str, text: str) -> tuple[str, str]:
        self.asked.append((parser, text))
        if isinstance(self.thought, Exception):
            raise self.thought
        return self.thought


@pytest.mark.parametrize(
    ("template", "text"),
    [("chatml", HERMES), ("thinking", HERMES), ("counting", HERMES), ("headers", LLAMA), ("opened", HERMES)],
)
async def test_auto_reads_the_calls_that_the_template_writes(template: str, text: str):
    parser = AnswerParser("auto", "auto", (TEMPLATES / f"{template}.jinja").read_text())
    assert list((await parser.parse(text, False, [ADD])).calls) == CALLS


@pytest.mark.parametrize(
    ("template", "separated"), [("chatml", False), ("headers", False), ("thinking", True), ("opened", True)]
)
@pytest.mark.parametrize("reasoning_parser", ["auto", "think", "none"])
async def test_auto_separates_reasoning_where_the_template_knows_of_it(template, separated, reasoning_parser):
    parser = AnswerParser("auto", reasoning_parser, (TEMPLATES / f"{template}.jinja").read_text())
    answer = await parser.parse("<think>\nhm\n</think>\n\nWell.", False, [])
    split = separated if reasoning_parser == "auto" else reasoning_parser == "think"
    assert (answer.reasoning, answer.content) == (("hm", "Well.") if split else ("", "<think>\nhm\n</think>\n\nWell."))


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("Well.", False, ("", "Well.")),
        (" \n<think>hm</think>Well.", False, ("hm", "Well.")),
        ("hm</think>Well.", True, ("hm", "Well.")),
        ("<think>hm</think>Well.", True, ("hm", "Well.")),
        ("<think>hm", False, ("hm", "")),
        ("hm\n", True, ("hm", "")),
        ("Well, <think>hm</think>", False, ("", "Well, <think>hm</think>")),
        ("a</think>b</think>c", True, ("a", "b</think>c")),
        ("<think>\n\n</think>\n\nWell.", False, ("", "Well.")),
    ],
)
async def test_reasoning_is_what_stands_first(text: str, opened: bool, expected: tuple[str, str]):
    answer = await AnswerParser("hermes", "think", "").parse(text, opened, [])
    assert (answer.reasoning, answer.content) == expected


async def test_the_message_is_in_openais_form():
    answer = await AnswerParser("hermes", "think", "").parse(f"<think>hm</think>{HERMES}{HERMES}", False, [ADD])
    message = answer.message()
    assert (message["role"], message["content"], message["reasoning_content"]) == ("assistant", None, "hm")
    first, second = message["tool_calls"]
    assert first["id"] != second["id"]
    assert first["id"].startswith("call_")
    assert (first["type"], first["function"]["name"], first["function"]["arguments"]) == ("function", "add", '{"é": 1}')
    assert json.loads(second["function"]["arguments"]) == {"é": 1}
    assert (await AnswerParser("hermes", "think", "").parse("Well.", False, [ADD])).message() == {
        "role": "assistant",
        "content": "Well.",
    }


async def test_calls_stay_text_where_there_are_no_tools_or_others():
    parser = AnswerParser("hermes", "none", "")
    assert (await parser.parse(HERMES, False, [])).message() == {"role": "assistant", "content": HERMES}
    other = {"type": "function", "function": {"name": "look_up"}}
    answer = await parser.parse(HERMES, False, [other])
    assert (answer.message(), answer.failures) == ({"role": "assistant", "content": HERMES}, ("unknown_tool",))


async def test_the_engine_reads_what_it_is_asked_to():
    elsewhere = Elsewhere([("add", '{"é": 1}')], ("hm", "said"))
    parser = AnswerParser("sglang:mistral", "sglang:deepseek-r1", "", elsewhere)
    answer = await parser.parse("text", False, [ADD])
    assert elsewhere.asked == [("deepseek-r1", "text"), ("mistral", "said", [ADD])]
    assert (answer.reasoning, answer.content, list(answer.calls)) == ("hm", "rest", CALLS)
    assert not parser.streams([ADD])
    assert not parser.streams([])
    assert AnswerParser("sglang:mistral", "none", "", elsewhere).streams([])
    assert not AnswerParser("sglang:mistral", "none", "", elsewhere).streams([ADD])
    assert AnswerParser("hermes", "none", "").streams([ADD])


@pytest.mark.parametrize("error", [EngineError("dead"), RefusedError("no such parser")])
async def test_an_engine_that_cannot_read_it_leaves_it_as_text(error: Exception):
    parser = AnswerParser("sglang:mistral", "sglang:deepseek-r1", "", Elsewhere(error, error))
    answer = await parser.parse("text", False, [ADD])
    assert (answer.reasoning, answer.content, list(answer.calls)) == ("", "text", [])
    assert answer.failures == ("parser_failed", "parser_failed")


@pytest.mark.parametrize("call", [("add", "{"), ("add", "[1]"), (None, "{}")])
async def test_malformed_calls_of_the_engine_are_text(call: Any):
    answer = await AnswerParser("sglang:mistral", "none", "", Elsewhere([call])).parse("text", False, [ADD])
    assert (answer.content, list(answer.calls), answer.failures) == ("text", [], ("malformed_call",))


@pytest.mark.parametrize(
    ("tools", "reasoning", "message"),
    [
        ("mistral", "auto", "endpoint.tool_parser = 'mistral': expected auto, hermes, llama3, pythonic or sglang:NAME"),
        ("auto", "deepseek", "endpoint.reasoning_parser = 'deepseek': expected auto, think, none or sglang:NAME"),
        ("sglang:mistral", "auto", "endpoint.tool_parser = 'sglang:mistral': expected sglang:NAME, and an engine"),
        ("auto", "sglang:", "endpoint.reasoning_parser = 'sglang:': expected sglang:NAME"),
    ],
)
def test_a_parser_that_is_not_known_is_named(tools: str, reasoning: str, message: str):
    with pytest.raises(ParserConfigError, match=message):
        AnswerParser(tools, reasoning, "")
