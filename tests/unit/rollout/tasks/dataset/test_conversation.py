"""Conversations in rows."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.tasks.dataset.conversation import read_conversation
from rollout.tasks.row_error import RowError

CALL = {"id": "c0", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": None}}}
TURNS = [
    {"role": "system", "content": "Be brief.", "name": None, "tool_calls": None},
    {"role": "user", "content": [{"type": "text", "text": "1+"}, "1?"]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c0", "content": "2"},
]


@pytest.mark.parametrize(("fills_with_nulls", "arguments"), [(False, {"a": 1, "b": None}), (True, {"a": 1})])
def test_nulls_of_a_message_are_not_there_and_deeper_ones_only_where_columns_fill_up(
    fills_with_nulls: bool, arguments: dict
):
    call = {**CALL, "function": {"name": "add", "arguments": arguments}}
    assert read_conversation(TURNS, "m", fills_with_nulls) == [
        {"role": "system", "content": "Be brief."},
        TURNS[1],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        TURNS[3],
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "m = None is no list of messages"),
        ([], "m = [] is no list of messages"),
        ("Hello", "m = 'Hello' is no list of messages; a text is asked with columns.prompt = 'm'"),
        (["Hello"], "m[0] = 'Hello' is no message"),
        ([{"content": "Hello"}], "m[0].role = None: expected system, user"),
        ([{"role": "user", "content": 5}], "m[0].content = 5: expected a text"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "m[0].content = [{'type': 'image_url'}]: expected a text",
        ),
        ([{"role": "tool", "content": "", "tool_calls": [{"name": "f"}]}], "m[0].tool_calls = "),
        (
            [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1"}],
            "m ends with a message of the assist",
        ),
    ],
)
def test_what_is_no_conversation_is_named(value: Any, message: str):
    with pytest.raises(RowError) as error:
        read_conversation(value, "m", False)
    assert str(error.value).startswith(message)
    assert error.value.reason == "bad_messages"
