"""Tool calls as JSON that is the whole answer, or follows <|python_tag|>."""

from __future__ import annotations

import pytest

from rollout.episodes.llama3 import Llama3Format
from rollout.episodes.tool_call import ToolCall

ADD, NOW = ToolCall("add", {"n": 1}), ToolCall("now", {})
CALL = '{"name": "add", "parameters": {"n": 1}}'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Well.", "Well.", []),
        (CALL, "", [ADD]),
        (f" \n{CALL}\n", "", [ADD]),
        (f'{CALL}; {{"name": "now"}}', "", [ADD, NOW]),
        (f'{CALL}\n{{"name": "now", "arguments": {{}}}}', "", [ADD, NOW]),
        (f"<|python_tag|>{CALL}", "", [ADD]),
        (f"Well.\n<|python_tag|>{CALL}", "Well.", [ADD]),
        ('{"answer": 3}', '{"answer": 3}', []),  # JSON that was asked for
        (f"Call {CALL}", f"Call {CALL}", []),
    ],
)
def test_calls_are_the_whole_answer_or_follow_the_tag(text: str, content: str, calls: list[ToolCall]):
    parsed = Llama3Format().parse(text)
    assert (parsed.content, list(parsed.calls), list(parsed.failures)) == (content, calls, [])


@pytest.mark.parametrize(
    "text",
    [
        CALL[:-1],
        f"{CALL} and more",
        f"<|python_tag|>{CALL}<|python_tag|>{CALL}",
        "<|python_tag|>print(1)",
        '{"name": "add", "parameters": 3}',
        "<|python_tag|>",
    ],
)
def test_what_is_no_call_stays_text(text: str):
    parsed = Llama3Format().parse(text)
    assert (parsed.content, list(parsed.calls), list(parsed.failures)) == (text, [], ["malformed_call"])


@pytest.mark.parametrize(
    ("text", "begins", "plain"),
    [
        ("", True, 0),
        (" ", True, 0),
        ("{", True, 0),
        ("{", False, 1),
        ("a <|py", True, 2),
        ("a\n", True, 1),
        ("a{", True, 2),
    ],
)
def test_what_is_content_for_certain(text: str, begins: bool, plain: int):
    assert Llama3Format().plain(text, begins) == plain
