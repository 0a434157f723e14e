"""Sampling parameters other than the worker's are overridden or refused, and always counted."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from rollout.config import SamplingConfig
from rollout.endpoint.api_error import ApiError
from rollout.endpoint.foreign_sampling import ForeignSampling
from tests.tools.scripted_book import Counted

ASK = [{"role": "user", "content": "Hello"}]
OWN = SamplingConfig(temperature=0.7, top_k=40)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, ()),
        ({"temperature": 0.7, "top_p": 1, "top_k": 40, "min_p": 0}, ()),
        ({"temperature": None}, ()),
        ({"temperature": 1.0, "top_p": 0.9}, ("temperature", "top_p")),
        ({"top_k": -1, "min_p": 0.1}, ("top_k", "min_p")),
        ({"seed": 5, "reasoning_effort": "high"}, ("seed", "reasoning_effort")),
        ({"parallel_tool_calls": True}, ()),
        ({"parallel_tool_calls": False}, ("parallel_tool_calls",)),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, ("parallel_tool_calls",)),
        ({"tool_choice": "required"}, ("tool_choice",)),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, ("tool_choice",)),
        ({"tool_choice": {"type": "tool", "name": "f"}}, ("tool_choice",)),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, ("strict",)),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, ("thinking",)),
    ],
)
def test_names_what_is_not_obeyed(body: dict[str, Any], names: tuple[str, ...]):
    assert set(ForeignSampling(OWN, "override").overridden(body)) == set(names)


def test_refuses_where_the_settings_say_so():
    strict = ForeignSampling(OWN, "refuse")
    with pytest.raises(ApiError, match=r"temperature = 1\.0: this run samples with 0\.7") as caught:
        strict.overridden({"temperature": 1.0})
    assert (caught.value.status, caught.value.param) == (400, "temperature")
    assert strict.overridden({"temperature": 0.7, "seed": 1}) == ("seed",)


@pytest.mark.parametrize("value", ["hot", True, [], {}])
def test_what_is_no_number_is_refused(value: Any):
    with pytest.raises(ApiError, match=r"temperature = .*expected a number"):
        ForeignSampling(OWN, "override").overridden({"temperature": value})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["chat/completions", "messages"])
async def test_the_answer_names_what_was_overridden(
    http: aiohttp.ClientSession, counted: Counted, path: str, stream: bool
):
    body = {"messages": ASK, "max_tokens": 5, "temperature": 0.1, "top_p": 1, "stream": stream}
    async with http.post(path, json=body) as response:
        assert (response.status, response.headers["x-leeway-overridden"]) == (200, "temperature")
    assert counted.parameters == ["temperature"]
