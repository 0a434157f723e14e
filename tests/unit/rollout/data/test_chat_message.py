"""Messages in canonical form, and which of them are the same."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.data.chat_message import ChatRequestError, canonical, same_message

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}}


def one(**message: Any) -> dict[str, Any]:
    (made,) = canonical([message])
    return made


def test_a_message_is_written_in_one_way():
    assert one(role="user", content=[{"type": "text", "text": "a"}, {"text": "b"}, "c"]) == {
        "role": "user",
        "content": "abc",
    }
    assert one(role="developer", content="a")["role"] == "system"
    assert one(role="assistant", tool_calls=[CALL], audio=None, refusal=None, annotations=[]) == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"n": 1}}}],
    }
    assert one(role="assistant", reasoning="hm") == one(role="assistant", reasoning_content="hm", content="")
    assert one(role="tool", tool_call_id="c1", name="add", content="2") == {
        "role": "tool",
        "content": "2",
        "tool_call_id": "c1",
        "name": "add",
    }
    assert one(role="assistant", tool_calls=[])["content"] == ""
    bare = {"function": {"name": "now", "arguments": ""}}
    assert one(role="assistant", tool_calls=[bare])["tool_calls"][0]["function"] == {"name": "now", "arguments": {}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("hello", r"messages\[0\] = 'hello': expected an object"),
        ({"content": "a"}, r"messages\[0\]\.role = None: expected system, user, assistant or tool"),
        ({"role": "user", "content": 3}, r"messages\[0\]\.content = 3: expected a text or a list"),
        (
            {"role": "user", "content": ["a", {"type": "image_url", "image_url": {}}]},
            r"messages\[0\]\.content\[1\] = .*: this policy reads text only",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, r"content\[0\] = .*: this policy reads text only"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, r"tool_calls\[0\] = .*: expected an object"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "{"}}]},
            r"messages\[0\]\.tool_calls\[0\]\.function\.arguments = '{': expected a JSON object",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "[1]"}}]},
            r"function\.arguments = '\[1\]': expected a JSON object",
        ),
    ],
)
def test_a_message_that_cannot_be_read_is_named(message: Any, expected: str):
    with pytest.raises(ChatRequestError, match=expected):
        canonical([message])


OURS = one(role="assistant", content="a", reasoning_content="hm", tool_calls=[CALL])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"reasoning_content": None}, True),
        ({"reasoning_content": "mine"}, False),
        ({"content": "b"}, False),
        ({"role": "user"}, False),
        ({"name": "x"}, False),
        ({"tool_calls": []}, False),
        ({"tool_calls": [CALL, CALL]}, False),
        ({"tool_calls": [{**CALL, "id": None}]}, True),
        ({"tool_calls": [{**CALL, "id": "c2"}]}, False),
        ({"tool_calls": [{**CALL, "function": {"name": "add", "arguments": '{"n":1.0}'}}]}, True),
        ({"tool_calls": [{**CALL, "function": {"name": "add", "arguments": '{"n": 2}'}}]}, False),
        ({"tool_calls": [{**CALL, "function": {"name": "sub", "arguments": '{"n": 1}'}}]}, False),
    ],
)
def test_what_counts_as_the_same_message(change: dict[str, Any], same: bool):
    sent = {"role": "assistant", "content": "a", "reasoning_content": "hm", "tool_calls": [CALL], **change}
    assert same_message(OURS, one(**sent)) is same
