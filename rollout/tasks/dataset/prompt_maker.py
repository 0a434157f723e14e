"""Makes prompts of rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rollout.tasks.base import Prompt, TaskError
from rollout.tasks.dataset.column_path import MISSING, as_answer, as_text, is_json, lookup, top_columns
from rollout.tasks.dataset.conversation import read_conversation
from rollout.tasks.dataset.options import DatasetOptions
from rollout.tasks.dataset.row_source import Row
from rollout.tasks.dataset.template import PromptTemplate
from rollout.tasks.row_error import RowError, UnusableRow

_DEFAULT_PROMPT, _DEFAULT_ANSWER = "prompt", "answer"
_SYSTEM_ROLES = ("system", "developer")
_LONGEST_ID = 256  # bytes, as the gateway accepts them
_ID_BYTES = 12  # of a digest that is a prompt's id
_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=repr).encode  # dates and bytes within tool calls


@dataclass(frozen=True, slots=True)
class RowContent:
    """What a row says, before it becomes a prompt.

    Attributes:
        prompt_id: the prompt's id.
        asked: values of the columns that are asked: one text, one conversation, or the texts for a template.
        answer: a text, a number, a list of them of which each is right, an object, or None.
        digest: digest of what is asked, as JSON.
    """

    prompt_id: str
    asked: list[Any]
    answer: Any
    digest: bytes


class PromptMaker:
    """Makes the prompts of one data set.

    Args:
        options: how.

    Raises:
        ValueError: the template is malformed.
    """

    def __init__(self, options: DatasetOptions) -> None:
        self._options = options
        self._template = PromptTemplate(options.template) if options.template else None
        self._pattern = re.compile(options.answer_pattern) if options.answer_pattern else None
        names = options.columns
        self._prompt = names.prompt or ("" if names.messages or options.template else _DEFAULT_PROMPT)
        self._answer = names.answer or _DEFAULT_ANSWER
        self.fills_with_nulls = False

    def used_columns(self) -> set[str]:
        """Names that the columns may have of which prompts, answers and ids are made, and by which rows are chosen."""
        return {name for path in (*self._required(), self._answer) for name in top_columns(path)}

    def require_columns(self, columns: Sequence[str]) -> None:
        """Checks that a data set has the columns that the options name. Raises TaskError."""
        kept = [("keep", name) for name in self._options.keep or ()]
        for setting, path in [*self._required().items(), *((path, setting) for setting, path in kept)]:
            if not any(name in columns for name in top_columns(setting)):
                raise TaskError(
                    f"task.options.{path} names the column {setting!r}, which is not there; there are {', '.join(columns)}"
                )

    def is_chosen(self, row: Row) -> bool:
        """Whether a row has the values of ``where``."""
        return all(_equal(lookup(row, path), value) for path, value in self._options.where.items())

    def content(self, row: Row) -> RowContent:
        """Returns what a row says. Raises RowError when no prompt can be made of it."""
        asked = self._asked(row)
        answer = self._answer_of(row)
        try:
            digest = hashlib.blake2b(_json(asked).encode(), digest_size=_ID_BYTES).digest()
            _json(answer).encode()
        except UnicodeEncodeError as error:  # JSON's \ud800 is half a character
            raise RowError("bad_text", f"a text that UTF-8 cannot hold: {error.object[error.start]!r}") from error
        return RowContent(self._id_of(row, digest), asked, answer, digest)

    def prompt(self, row: Row) -> Prompt:
        """Returns the prompt of a row. Raises RowError when none can be made of it."""
        content = self.content(row)
        data = {"answer": content.answer, "row": self._rest_of(row)}
        if self._options.columns.solution:
            solution = lookup(row, self._options.columns.solution)
            data["solution"] = None if solution is MISSING else as_text(solution)
        if not (self._options.columns.messages or self._options.system):
            return Prompt(content.prompt_id, self._text(content.asked), data)
        if self._options.columns.messages:
            messages = content.asked[0]
        else:
            messages = [{"role": "user", "content": self._text(content.asked)}]
        if self._options.system and messages[0]["role"] not in _SYSTEM_ROLES:
            messages = [{"role": "system", "content": self._options.system}, *messages]
        return Prompt(content.prompt_id, data=data, messages=messages)

    def _required(self) -> dict[str, str]:
        """Columns that every row of the data must have, each with the option that names it."""
        names = self._options.columns
        named = {names.solution: "columns.solution", names.id: "columns.id", names.answer: "columns.answer"}
        named |= {names.messages: "columns.messages", self._prompt: "columns.prompt"}
        named |= dict.fromkeys(self._template.columns if self._template else (), "template")
        named |= dict.fromkeys(self._options.where, "where")
        return {path: setting for path, setting in named.items() if path}

    def _asked(self, row: Row) -> list[Any]:
        if self._options.columns.messages:
            column = self._options.columns.messages
            return [read_conversation(_present(row, column, "bad_messages"), column, self.fills_with_nulls)]
        if self._template is None:
            texts = [_text_at(row, self._prompt)]
        else:
            texts = [_text_at(row, column) for column in self._template.columns]
        if not any(text.strip() for text in texts):
            raise RowError("no_prompt", "nothing is asked: the text is empty")
        return texts

    def _text(self, asked: Sequence[str]) -> str:
        if self._template is None:
            return asked[0]
        return self._template.fill(dict(zip(self._template.columns, asked, strict=True)).__getitem__)

    def _answer_of(self, row: Row) -> Any:
        value = lookup(row, self._answer)
        if not self._options.columns.answer and (value is MISSING or value is None or value == ""):
            return None
        if isinstance(value, list):
            answer = [self._captured(one) for one in value]
            if answer and not any(one is None or one == "" for one in answer):
                return answer
        elif isinstance(value, dict) and is_json(value):
            return value
        elif (answer := self._captured(value)) is not None and answer != "":
            return answer
        why = "is not there" if value is MISSING else f"= {value!r:.60} is no answer"
        if self._pattern is not None and isinstance(value, str | list):
            why += f", or answer_pattern = {self._pattern.pattern!r} does not match"
        raise RowError("no_answer", f"column {self._answer!r} {why}")

    def _captured(self, value: Any) -> str | int | float | None:
        if self._pattern is None or (text := as_text(value)) is None:
            return as_answer(value)
        found = [match[1] for match in self._pattern.finditer(text)]
        return found[-1] if found else None

    def _id_of(self, row: Row, digest: bytes) -> str:
        if not self._options.columns.id:
            return f"dataset:{digest.hex()}"
        value = _present(row, self._options.columns.id, "bad_id")
        text = as_text(value)
        # What is printable is no half of a character, so that it can be encoded.
        if not text or not text.isprintable() or len(text.encode()) > _LONGEST_ID:
            raise RowError(
                "bad_id", f"id = {value!r:.60}: expected 1 to {_LONGEST_ID} bytes of printable text, or a number"
            )
        return text

    def _rest_of(self, row: Row) -> Row:
        asked = top_columns(self._options.columns.messages or self._prompt)
        keep = self._options.keep
        return {
            name: value
            for name, value in row.items()
            if name not in asked and (keep is None or name in keep) and is_json(value)
        }


def _present(row: Row, column: str, reason: UnusableRow) -> Any:
    value = lookup(row, column)
    if value is MISSING:
        raise RowError(reason, f"no column {column!r}; there are {', '.join(map(str, row))}")
    return value


def _text_at(row: Row, column: str) -> str:
    value = _present(row, column, "no_prompt")
    text = "" if value is None else as_text(value)
    if text is None:
        hint = f"; a conversation is asked with columns.messages = {column!r}" if isinstance(value, list) else ""
        raise RowError("no_prompt", f"column {column!r} = {value!r:.60} is no text{hint}")
    return text


def _equal(value: Any, wanted: Any) -> bool:
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)  # 1 is not true
