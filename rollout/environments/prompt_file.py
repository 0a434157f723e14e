"""Prompts from a file of JSON lines, for agents that bring none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollout.tasks import Prompt, Task, TaskError
from rollout.tasks.json_lines import JsonLine, json_lines
from rollout.tasks.row_error import RowError


class PromptFile(Task):
    """The prompts of a .jsonl file, in its order, pass after pass.

    Each line is an object with ``prompt`` (a text) or ``messages`` (OpenAI's form), perhaps ``id``; the whole object is the
    prompt's data.

    Args:
        seed: of no use: the order is the file's.
        path: the file.
    """

    name = "prompts"

    def __init__(self, seed: int = 0, path: str = "") -> None:
        super().__init__(seed)
        self._path = Path(path)
        self._rows: list[dict[str, Any]] = []

    def load(self) -> None:
        if not self._path.is_file():
            raise TaskError(f"task.prompts = {str(self._path)!r}: no such file")
        self._rows = [self._row(line) for line in json_lines(self._path)]
        if not self._rows:
            raise TaskError(f"task.prompts = {str(self._path)!r}: the file is empty")
        self.size = len(self._rows)

    def prompt(self, index: int) -> Prompt:
        number = index % len(self._rows)
        row = self._rows[number]
        name = str(row.get("id", f"{self._path.stem}:{number}"))
        return Prompt(name, row.get("prompt", ""), row, row.get("messages", ()))

    def reward(self, prompt: Prompt, response: str) -> float:
        raise NotImplementedError("a file of prompts judges nothing")

    def _row(self, line: JsonLine) -> dict[str, Any]:
        try:
            row = line.parse()
        except RowError as error:
            raise TaskError(f"{self._path}, line {line.number}: {error}") from error
        text = isinstance(row.get("prompt"), str) and bool(row["prompt"])
        messages = isinstance(row.get("messages"), list) and bool(row["messages"])
        if text == messages:
            raise TaskError(
                f"{self._path}, line {line.number}: expected an object with prompt (a text) or messages (a list), "
                f"found {line.raw[:80]!r}"
            )
        return row
