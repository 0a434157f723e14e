"""Anthropic's form of a conversation in OpenAI's: nothing is lost on the way there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.data.chat_message import canonical
from rollout.endpoint.anthropic_answer import MessageAnswer
from rollout.endpoint.anthropic_request import read_messages
from rollout.endpoint.api_error import ApiError
from rollout.endpoint.fields import Fields
from tests.tools.scripted_book import answer

ASK = [{"role": "user", "content": "How warm is it?"}]
TOOL = {"name": "weather", "description": "The weather.", "input_schema": {"type": "object"}}


def read(**body: Any):
    return read_messages(Fields({"max_tokens": 9, "messages": ASK, **body}))


def test_a_conversation_with_tools():
    call = read(
        system=[
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be kind."},
        ],
        messages=[
            *ASK,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Which city?", "signature": ""},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Kyiv"}},
                    {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "21"}]},
                    {"type": "tool_result", "tool_use_id": "b", "is_error": True},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
        tools=[TOOL],
        stop_sequences=["END"],
    )  # fmt: skip

    def called(key: str, arguments: str) -> dict[str, Any]:
        return {"id": key, "type": "function", "function": {"name": "weather", "arguments": arguments}}

    assert call.messages == [
        {"role": "system", "content": "Be brief.\nBe kind."},
        ASK[0],
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [called("a", '{"city": "Kyiv"}'), called("b", "{}")],
            "reasoning_content": "Which city?",
        },
        {"role": "tool", "tool_call_id": "a", "content": "21"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {"role": "user", "content": "Well?"},
    ]
    function = {"name": "weather", "description": "The weather.", "parameters": {"type": "object"}}
    assert call.tools == [{"type": "function", "function": function}]
    assert (call.tool_choice, call.max_tokens, call.stop) == ("auto", 9, ("END",))


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    content=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    reasoning=st.text(st.characters(exclude_categories=["Cs"])),
    calls=st.lists(
        st.tuples(st.text(min_size=1), st.text(min_size=1), st.dictionaries(st.text(), _JSON, max_size=3)), max_size=3
    ),
)
def test_what_was_answered_comes_back_as_it_was(content: str | None, reasoning: str, calls: list[tuple[str, str, Any]]):
    made = answer(content)
    if reasoning:
        made.message["reasoning_content"] = reasoning
    if calls:
        made.message["tool_calls"] = [
            {"id": key, "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for key, name, given in calls
        ]
    sent = json.loads(json.dumps(MessageAnswer("policy").whole(made)))
    back = read(messages=[*ASK, {"role": "assistant", "content": sent["content"]}, *ASK]).messages[1]
    assert canonical([back]) == canonical([made.message])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, "weather"),
    ],
)
def test_tool_choices(choice: Any, expected: str):
    assert read(tools=[TOOL], tool_choice=choice).tool_choice == expected


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [*ASK, {"role": "assistant", "content": "It is"}]}, "messages[1]"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}]},
            "messages[0].content[0].name",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"system": 3}, "system"),
        ({"stop_sequences": [3]}, "stop_sequences"),
        ({"mcp_servers": []}, "mcp_servers"),
    ],
)
def test_a_field_that_is_not_as_it_should_be_is_named_with_its_path(body: dict[str, Any], param: str):
    with pytest.raises(ApiError) as caught:
        read(**body)
    assert (caught.value.status, caught.value.param) == (400, param)
