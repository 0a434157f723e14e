"""Conversations are rendered as transformers renders them, on templates in the way of several families of models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.data.chat_message import ChatRequestError, canonical
from rollout.data.chat_template import read_chat_template
from rollout.data.tokenizer import Tokenizer, TokenizerError
from tests.tools.chat_model import TEMPLATES, write_chat_model

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": 'Finds "things" <b>&c.</b> ü',
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}
PIECES = [*"ab12 \n\t<>{}\"'é", "<think>", "</think>", "<|im_end|>", "{{"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["what", "n"]), st.one_of(TEXT, st.integers(), st.none(), st.booleans()), max_size=2
)
CALL = st.builds(
    lambda name, arguments: {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}},
    st.sampled_from(["look_up", "add"]),
    ARGUMENTS,
)
ASSISTANT = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": TEXT},
    optional={"tool_calls": st.lists(CALL, min_size=1, max_size=2), "reasoning_content": TEXT},
)
OTHER = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "note"]), "content": TEXT}),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": st.just("c1"), "content": TEXT}),
)
MESSAGES = st.lists(st.one_of(ASSISTANT, OTHER), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Any]]:
    from transformers import AutoTokenizer

    made = {}
    for name in NAMES:
        model = write_chat_model(tmp_path_factory.mktemp(name), name)
        made[name] = Tokenizer(model), AutoTokenizer.from_pretrained(str(model))
    return made


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(
    messages=MESSAGES,
    tools=st.sampled_from([(), (TOOL,), (TOOL, TOOL)]),
    prompt=st.booleans(),
    keywords=st.fixed_dictionaries(
        {"date_string": st.just("1 May 2031")}, optional={"enable_thinking": st.booleans(), "eos_token": st.just("END")}
    ),
)
def test_text_and_ids_are_those_of_transformers(models, name, messages, tools, prompt, keywords):
    ours, theirs = models[name]

    def reference(tokenize: bool) -> Any:
        return theirs.apply_chat_template(
            messages,
            tools=list(tools) or None,
            add_generation_prompt=prompt,
            tokenize=tokenize,
            **({"return_dict": False} if tokenize else {}),
            **keywords,
        )

    try:
        expected = reference(tokenize=False)
    except (jinja2.TemplateError, TypeError) as error:
        with pytest.raises(ChatRequestError, match=re.escape(str(error))):
            ours.chat_template.render(messages, tools, keywords, prompt=prompt)
        return
    rendered = ours.chat_template.render(messages, tools, keywords, prompt=prompt)
    assert rendered == expected
    assert ours.rendered_ids(rendered) == reference(tokenize=True)


def test_the_date_is_today_as_transformers_writes_it(models):
    ours, theirs = models["headers"]
    messages = [{"role": "user", "content": "hello"}]
    for _ in range(2):  # midnight may pass once
        rendered = ours.chat_template.render(messages)
        if rendered == theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False):
            break
    assert rendered == theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ours.message_ids(messages) == ours.rendered_ids(rendered)


def place(model: Path, where: dict[str, str | None]) -> None:
    """Writes templates at the places where they may be; "config" is tokenizer_config.json, with a list if it has several."""
    (model / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    for name, text in where.items():
        if name == "config":
            settings["chat_template"] = text
        elif name == "file":
            (model / "chat_template.jinja").write_text(text or "")
        else:
            path = model / "additional_chat_templates" / f"{name}.jinja"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text or "")
    (model / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "where",
    [
        {"config": "from the settings"},
        {"config": "from the settings", "file": "from the file\n"},
        {"config": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]},
        {"file": "plain", "tool_use": "with tools"},
        {"config": "from the settings", "file": "plain", "other": "never"},
        {"file": "  {% if messages %}\n  indented\n  {% endif %}\n  {# note #}\nlast\n"},
    ],
)
@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_the_template_is_found_where_transformers_finds_it(tmp_path: Path, where, tools):
    from transformers import AutoTokenizer

    model = write_chat_model(tmp_path, "chatml")
    place(model, where)
    messages = [{"role": "user", "content": "hello"}]
    theirs = AutoTokenizer.from_pretrained(str(model))
    expected = theirs.apply_chat_template(messages, tools=list(tools) or None, tokenize=False)
    assert Tokenizer(model).chat_template.render(messages, tools, prompt=False) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "it has no chat template; add chat_template.jinja"),
        ({"config": ""}, "it has no chat template"),
        ({"tool_use": "x"}, "no chat template named 'default', only tool_use"),
        ({"config": [{"name": "default"}]}, r"chat_template = \[{'name': 'default'}\]: expected a text, or a list"),
        ({"config": 3}, "chat_template = 3: expected a text"),
        ({"file": "{% for %}"}, "its chat template is not valid"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(tmp_path: Path, where, message: str):
    model = write_chat_model(tmp_path, "chatml")
    place(model, where)
    with pytest.raises(TokenizerError, match=message):
        read_chat_template(model, {})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no such turn') }}", "no such turn"),
        ("{{ messages[0].missing.text }}", "has no attribute 'missing'"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages.append(1) }}", "is not safely callable|unsafe"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
    ],
)
def test_a_template_that_refuses_or_fails_is_an_error_of_the_request(tmp_path: Path, template: str, message: str):
    model = write_chat_model(tmp_path, "chatml")
    place(model, {"file": template})
    with pytest.raises(ChatRequestError, match=message):
        read_chat_template(model, {}).render([{"role": "user", "content": "hello"}])


def test_an_empty_conversation_and_a_keyword_that_is_taken_are_refused(models):
    ours, _ = models["chatml"]
    with pytest.raises(ChatRequestError, match="at least one message"):
        ours.chat_template.render([])
    with pytest.raises(ChatRequestError, match="messages"):
        ours.chat_template.render([{"role": "user", "content": "a"}], (), {"messages": []})


def test_messages_that_differ_in_form_alone_are_rendered_alike(models):
    ours, _ = models["thinking"]
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}}
    sent = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": ["2"]},
    ]
    plain = [
        {"content": "Be kind.", "role": "system"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {"n": 1}, "name": "add"}}]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]
    assert ours.chat_template.render(canonical(sent)) == ours.chat_template.render(canonical(plain))
