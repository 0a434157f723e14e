"""What a call of chat completions may ask for, and by which name it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.endpoint.api_error import ApiError
from rollout.endpoint.chat_request import read_chat
from rollout.endpoint.fields import Fields

ASK = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def read(**body: Any):
    return read_chat(Fields({"messages": ASK, **body}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2), ("n", 0), ("n", True), ("n", "1"), ("logprobs", True), ("logprobs", 0), ("top_logprobs", 3),
        ("logit_bias", {"5": 1}), ("frequency_penalty", 0.5), ("presence_penalty", -1), ("repetition_penalty", 1.2),
        ("response_format", {"type": "json_object"}), ("modalities", ["text", "audio"]), ("audio", {"voice": "x"}),
        ("functions", [{"name": "f"}]), ("function_call", "auto"), ("web_search_options", {}), ("guided_json", {}),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused_by_name(field: str, value: Any):
    with pytest.raises(ApiError) as caught:
        read(**{field: value})
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, field, "unsupported_parameter")
    assert field in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1), ("logprobs", False), ("logprobs", None), ("logit_bias", {}), ("frequency_penalty", 0),
        ("presence_penalty", 0.0), ("response_format", {"type": "text"}), ("modalities", ["text"]),
        ("user", "me"), ("metadata", {"a": "b"}),
        ("store", True), ("service_tier", "auto"), ("seed", 3), ("temperature", 0.2), ("prompt_cache_key", "k"),
        ("anything", None),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_ignored(field: str, value: Any):
    assert read(**{field: value}).messages == ASK


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}, "tools[0].function.parameters"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]},
            "tool_choice.function.name",
        ),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"stop": 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
)
def test_a_field_that_is_not_as_it_should_be_is_named_with_its_path(body: dict[str, Any], param: str):
    with pytest.raises(ApiError) as caught:
        read(**body)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_message_keeps_what_templates_read_and_nothing_else():
    sent = {
        "role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None, "function_call": None,
        "reasoning_content": "Hm.", "provider": "x",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 0}],
    }  # fmt: skip
    call = read(messages=[*ASK, sent])
    assert call.messages[1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        "reasoning_content": "Hm.",
    }


def test_tool_choices():
    for choice, expected in [("auto", "auto"), ("none", "none"), ("required", "required"), (None, "auto")]:
        assert read(tools=[TOOL], tool_choice=choice).tool_choice == expected
    assert read(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}).tool_choice == "f"
