"""Options of the task dataset, as ``task.options`` gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

Format = Literal["", "jsonl", "parquet", "huggingface"]
_OF_HUGGING_FACE = ("config", "split", "revision")


@dataclass(frozen=True)
class ColumnNames:
    """Which columns hold what. A dotted path reaches into a nested column, such as "reward_model.ground_truth".

    Attributes:
        prompt: a text that is asked; without ``messages`` and ``template`` it is "prompt".
        messages: a conversation that is asked, in OpenAI's form.
        answer: the right answer; unset: the column "answer", in rows that have it.
        id: a name that no other row has, 1 to 256 bytes; unset: a digest of what is asked.
        solution: a response that is right, for supervised warm starts; unset: the answer.
    """

    prompt: str = ""
    messages: str = ""
    answer: str = ""
    id: str = ""
    solution: str = ""


@dataclass(frozen=True)
class DatasetOptions:
    """What to read, and how prompts are made of it.

    Attributes:
        path: a file, a directory, a pattern such as "data/*.parquet", or a list of them; all files are one data set, in the
            order of their names.
        name: instead of a path: a dataset of the Hugging Face Hub, or a directory that ``datasets.load_dataset`` or
            ``datasets.load_from_disk`` can read.
        config: the dataset's configuration, with ``name``.
        split: the dataset's split, such as "train" or "train[:1000]", with ``name``.
        revision: the dataset's git revision, with ``name``.
        streaming: rows are read over the network until there are ``limit``, instead of downloading the files.
        format: "jsonl", "parquet" or "huggingface"; unset: by the names of the files.
        columns: which columns hold what.
        template: the prompt's text around columns: "Question: {question}"; {{ and }} are braces.
        system: text of a system turn before the prompt, or before a conversation that begins with none.
        answer_pattern: regular expression with one group: what the last match captures in the answer is the answer.
        where: only rows whose columns have these values.
        limit: only as many rows, the first ones; unset: all.
        shuffle: another order in each pass and for each seed; false: the order of the files.
        keep: columns that a reward finds in ``prompt.data["row"]``; unset: all that JSON can hold.
        bad_lines: share of the rows that may be unusable and are skipped; with more, nothing is asked.

    Raises:
        ValueError: an option does not fit; the message names it and its value.
    """

    path: str | Sequence[str] = ""
    name: str = ""
    config: str = ""
    split: str = ""
    revision: str = ""
    streaming: bool = False
    format: Format = ""
    columns: ColumnNames = field(default_factory=ColumnNames)
    template: str = ""
    system: str = ""
    answer_pattern: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    shuffle: bool = True
    keep: Sequence[str] | None = None
    bad_lines: float = 0.01

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> DatasetOptions:
        """Returns the options in a mapping. Raises ValueError when there is an unknown one, or one does not fit."""
        _refuse_unknown(options, cls, "")
        columns = options.get("columns", {})
        if not isinstance(columns, Mapping):
            raise ValueError(
                f"columns = {columns!r}: expected a table such as {{prompt = 'question', answer = 'answer'}}"
            )
        _refuse_unknown(columns, ColumnNames, "columns.")
        for option, value in columns.items():
            _require(isinstance(value, str), f"columns.{option}", value, "the name of a column")
        return cls(**{**options, "columns": ColumnNames(**columns)})

    def __post_init__(self) -> None:
        self._check_types()
        self._check_source()
        asked = [name for name in ("prompt", "messages") if getattr(self.columns, name)]
        asked += ["template"] if self.template else []
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} exclude each other: one of them says what is asked")
        if self.answer_pattern:
            try:
                groups = re.compile(self.answer_pattern).groups
            except re.error as error:
                raise ValueError(f"answer_pattern = {self.answer_pattern!r}: no regular expression: {error}") from error
            _require(groups == 1, "answer_pattern", self.answer_pattern, "one group, such as '####\\s*(.+)'")

    def _check_types(self) -> None:
        for option in ("name", *_OF_HUGGING_FACE, "template", "system", "answer_pattern"):
            value = getattr(self, option)
            _require(isinstance(value, str), option, value, "a text")
        paths = [self.path] if isinstance(self.path, str) else self.path
        _require(_is_texts(paths), "path", self.path, "a path, or a list of paths")
        for option in ("streaming", "shuffle"):
            _require(isinstance(getattr(self, option), bool), option, getattr(self, option), "true or false")
        _require(self.format in get_args(Format), "format", self.format, "jsonl, parquet or huggingface")
        plain = isinstance(self.where, Mapping) and not any(isinstance(v, list | dict) for v in self.where.values())
        _require(plain, "where", self.where, "a table of columns and the values they must have")
        _require(self.keep is None or _is_texts(self.keep), "keep", self.keep, "a list of columns")
        limit = self.limit
        _require(limit is None or (type(limit) is int and limit > 0), "limit", limit, "a number of rows, at least 1")
        share = self.bad_lines
        allowed = isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share < 1
        _require(allowed, "bad_lines", share, "a share of the rows, in [0, 1)")

    def _check_source(self) -> None:
        if bool(self.path) == bool(self.name):
            raise ValueError(
                f"path = {self.path!r} and name = {self.name!r}: set one of them: the path of files, or the name of a "
                "Hugging Face dataset"
            )
        if self.name and self.format not in ("", "huggingface"):
            raise ValueError(f"format = {self.format!r} is for a path; a name is a Hugging Face dataset")
        elsewhere = [] if self.reads_hugging_face else [name for name in _OF_HUGGING_FACE if getattr(self, name)]
        if elsewhere:
            value = getattr(self, elsewhere[0])
            raise ValueError(
                f"{elsewhere[0]} = {value!r} is for Hugging Face datasets: set name instead of path, or format = "
                "'huggingface'; otherwise choose files by path, rows by where"
            )
        if self.streaming and not self.name:
            raise ValueError("streaming = true needs name: files at a path are not sent over a network")
        if self.streaming and self.limit is None:
            raise ValueError("streaming = true needs limit: how many rows to read, which are then held in memory")

    @property
    def reads_hugging_face(self) -> bool:
        """Whether the options ask for the library datasets; a path that it has written is found out only at the path."""
        return bool(self.name) or self.format == "huggingface"


def _refuse_unknown(given: Mapping[str, Any], cls: type, prefix: str) -> None:
    known = [one.name for one in fields(cls)]
    for option in given:
        if option not in known:
            raise ValueError(f"{prefix}{option} = {given[option]!r}: no such option; there are {', '.join(known)}")


def _require(holds: bool, option: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{option} = {value!r}: expected {expected}")


def _is_texts(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)
