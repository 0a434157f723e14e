"""Tool calls between <tool_call> and </tool_call>."""

from __future__ import annotations

import pytest

from rollout.episodes.hermes import HermesFormat
from rollout.episodes.tool_call import ParsedContent, ToolCall

ADD = ToolCall("add", {"n": 1})
CALL = '<tool_call>\n{"name": "add", "arguments": {"n": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        ("Well.\n", "Well.\n", []),
        (CALL, "", [ADD]),
        (f"Well.\n{CALL}\n", "Well.", [ADD]),
        (f"{CALL}\n{CALL}", "", [ADD, ADD]),
        (f"a\n{CALL} b", "a b", [ADD]),
        (CALL.removesuffix("</tool_call>"), "", [ADD]),  # ended at the brace
        ('<tool_call>{"name": "add", "arguments": "{\\"n\\": 1}"}</tool_call>', "", [ADD]),
        ('<tool_call>{"arguments": {"n": 1}, "name": "add"}</tool_call>', "", [ADD]),
        ('<tool_call>{"name": "now"}</tool_call>', "", [ToolCall("now", {})]),
        (
            '<tool_call>{"name": "say", "arguments": {"text": "</tool_call>"}}</tool_call>',
            "",
            [ToolCall("say", {"text": "</tool_call>"})],
        ),
    ],
)
def test_calls_are_taken_out_of_the_text(text: str, content: str, calls: list[ToolCall]):
    assert HermesFormat().parse(text) == ParsedContent(content, calls, [])


@pytest.mark.parametrize(
    "block",
    [
        "<tool_call>",
        "<tool_call>{",
        "<tool_call>add(1)</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"name": ""}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "add", "arguments": "{"}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"n": NaN}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"n": 1e999}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"n": "\\ud800"}}</tool_call>',
        '<tool_call>{"name": "add"} and more</tool_call>',
        "<tool_call>" + "[" * 100_000,
    ],
)
def test_what_is_no_call_stays_text(block: str):
    parsed = HermesFormat().parse(f"a\n{block}")
    assert (parsed.content, list(parsed.calls), list(parsed.failures)) == (f"a\n{block}", [], ["malformed_call"])
    followed = HermesFormat().parse(f"{block}\n{CALL}")
    assert list(followed.calls) == [ADD]
    assert block.strip() in followed.content


@pytest.mark.parametrize(
    ("text", "plain"), [("Well", 4), ("Well\n", 4), ("Well <tool", 5), ("a <tool_call>{", 2), ("<", 0), ("a<b", 3)]
)
def test_what_is_content_for_certain(text: str, plain: int):
    assert HermesFormat().plain(text, begins=True) == plain
