"""Renders conversations with a model's own chat template, as transformers does and without importing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rollout.data.chat_message import ChatRequestError
from rollout.data.tokenizer_files import TokenizerError, read_json

_DEFAULT, _WITH_TOOLS = "default", "tool_use"
# What a template may raise about the values that it is given, besides Jinja's own errors.
_FAILURES = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class ChatTemplate:
    """The chat template of a model.

    Args:
        sources: Jinja texts by name, with "default" among them; "tool_use", where there is one, renders calls with tools.
        special: texts of the special tokens by name, such as eos_token, which templates read.
        model: named in messages.

    Attributes:
        text: the templates' texts, one after the other.

    Raises:
        TokenizerError: there is no default template, or one is not valid.
    """

    def __init__(self, sources: Mapping[str, str], special: Mapping[str, str], model: Path) -> None:
        if _DEFAULT not in sources:
            others = f" named 'default', only {', '.join(sorted(sources))}" if sources else ""
            raise TokenizerError(
                f"model = {model}: it has no chat template{others}; add chat_template.jinja there, or use "
                "task.prompt_format = 'raw' and no messages"
            )
        environment = _environment()
        try:
            self._templates = {name: environment.from_string(source) for name, source in sources.items()}
        except jinja2.TemplateError as error:
            raise TokenizerError(f"model = {model}: its chat template is not valid: {error}") from error
        self._special = dict(special)
        self.text = "\n".join(sources.values())

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        keywords: Mapping[str, Any] | None = None,
        *,
        prompt: bool = True,
    ) -> str:
        """Returns a conversation as text.

        Args:
            messages: in canonical form, at least one.
            tools: descriptions of tools, as OpenAI's.
            keywords: further variables for the template, such as enable_thinking.
            prompt: whether the beginning of the assistant's next message follows.

        Raises:
            ChatRequestError: the template refuses the conversation, or fails on it.
        """
        if not messages:
            raise ChatRequestError("messages = []: expected at least one message")
        named = _WITH_TOOLS if tools and _WITH_TOOLS in self._templates else _DEFAULT
        try:
            return self._templates[named].render(
                **{**self._special, **(keywords or {})},
                messages=messages,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=prompt,
            )
        except _FAILURES as error:
            raise ChatRequestError(
                f"messages: the model's chat template refuses them: {error}; send what this model was made for"
            ) from error


def read_chat_template(model: Path, special: Mapping[str, str]) -> ChatTemplate:
    """Reads the chat template of a model directory: its own file, or the one in tokenizer_config.json.

    Raises:
        TokenizerError: there is none, or it cannot be read.
    """
    return ChatTemplate(_sources(model), special, model)


def _sources(model: Path) -> dict[str, str]:
    own = model / "chat_template.jinja"
    files = {_DEFAULT: own} if own.is_file() else {}
    files |= {path.stem: path for path in sorted((model / "additional_chat_templates").glob("*.jinja"))}
    try:
        found = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"model = {model}: its chat template cannot be read: {error}") from error
    # The files win over tokenizer_config.json: transformers never mixes the two.
    return found or _from_settings(
        read_json(model / "tokenizer_config.json", optional=True).get("chat_template"), model
    )


def _from_settings(value: Any, model: Path) -> dict[str, str]:
    if isinstance(value, str):
        return {_DEFAULT: value} if value else {}
    try:
        return {str(named["name"]): str(named["template"]) for named in value or ()}
    except (KeyError, TypeError) as error:
        raise TokenizerError(
            f"{model / 'tokenizer_config.json'}: chat_template = {value!r:.80}: expected a text, or a list of objects with "
            "name and template"
        ) from error


class _GenerationTag(Extension):
    """Accepts the tag {% generation %}, with which templates mark assistant text; what is inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Parses the tag into a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

    def _as_it_is(self, caller: Callable[[], str]) -> str:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    """Returns the environment in which templates of Hugging Face are written: sandboxed, with a few helpers of their own."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes what HTML would misread.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
