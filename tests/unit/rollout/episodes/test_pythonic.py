"""Tool calls as a Python list."""

from __future__ import annotations

import pytest

from rollout.episodes.pythonic import PythonicFormat
from rollout.episodes.tool_call import ToolCall


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[now()]", [ToolCall("now", {})]),
        (' [add(n=1, to=[1, {"a": None}]), math.add(x=-1.5)]\n', [("add"), ("math.add")]),
        ("[say(text='a, (b')]", [ToolCall("say", {"text": "a, (b"})]),
        ("[add(pair=(1, 2))]", [ToolCall("add", {"pair": [1, 2]})]),
    ],
)
def test_calls_are_the_whole_answer(text: str, calls: list):
    parsed = PythonicFormat().parse(text)
    assert (parsed.content, parsed.failures) == ("", ())
    assert [
        call.name if isinstance(wanted, str) else call for call, wanted in zip(parsed.calls, calls, strict=True)
    ] == calls


@pytest.mark.parametrize("text", ["", "Well.", "[1, 2]", "[a link](somewhere)", "now()"])
def test_other_text_is_content(text: str):
    parsed = PythonicFormat().parse(text)
    assert (parsed.content, parsed.calls, parsed.failures) == (text, (), ())


@pytest.mark.parametrize(
    "text",
    [
        "[now(]",
        "[now()] and more",
        "[add(1)]",
        "[add(**a)]",
        "[add(n=x)]",
        "[add(n={1})]",
        "[add(n=1e999)]",
        "[add(n=1j)]",
        "[now(), 3]",
        "[now(" + "(" * 5000,
    ],
)
def test_what_is_no_call_stays_text(text: str):
    parsed = PythonicFormat().parse(text)
    assert (parsed.content, parsed.calls, parsed.failures) == (text, (), ("malformed_call",))


@pytest.mark.parametrize(("text", "begins", "plain"), [("", True, 0), ("[", True, 0), ("a[", True, 2), ("[", False, 1)])
def test_what_is_content_for_certain(text: str, begins: bool, plain: int):
    assert PythonicFormat().plain(text, begins) == plain
