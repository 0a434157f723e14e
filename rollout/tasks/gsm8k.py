"""The task gsm8k: grade-school mathematics (Cobbe et al. 2021, arXiv 2110.14168), scored by math-verify."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from rollout.tasks.answers.math_judge import is_right
from rollout.tasks.base import Prompt, Task, TaskError
from rollout.tasks.json_lines import json_lines
from rollout.tasks.judged_response import JudgedResponse

_INSTRUCTION = "\nThink step by step, then give the final number in \\boxed{}."


class Gsm8k(Task):
    """Questions from a file of {"question", "answer"} lines, in a different order for every pass and seed.

    Args:
        path: the JSON lines file (train.jsonl of the data set's repository).
        instruction: text put after every question.

    Raises:
        TaskError: the file is missing, empty, or a line does not fit.
    """

    name = "gsm8k"
    slow = True  # math-verify can take long to parse an adversarial answer: never in the worker's event loop

    def __init__(self, seed: int = 0, path: str = "", instruction: str = _INSTRUCTION) -> None:
        super().__init__(seed)
        self._path = path
        self._rows: list[tuple[str, str]] = []
        self._instruction = instruction
        self._order: tuple[int, list[int]] = (-1, [])

    def load(self) -> None:
        self._rows = _read(self._path)
        self.size = len(self._rows)

    def prompt(self, index: int) -> Prompt:
        row = self._row(*divmod(index, len(self._rows)))
        question, answer = self._rows[row]
        return Prompt(f"gsm8k:{row}", question + self._instruction, {"final": _final(answer), "answer": answer})

    def reward(self, prompt: Prompt, response: str) -> float:
        return self.judge(prompt, JudgedResponse(response))

    def judge(self, prompt: Prompt, response: JudgedResponse) -> float:
        return float(is_right(prompt.data["final"], response.text, response.thinking))

    def answer(self, prompt: Prompt) -> str:
        return prompt.data["final"]

    def solution(self, prompt: Prompt) -> str:
        reasoning = re.sub(r"<<.*?>>", "", prompt.data["answer"].rpartition("####")[0]).rstrip()
        return f"{reasoning}\n\\boxed{{{prompt.data['final']}}}"

    def _row(self, epoch: int, position: int) -> int:
        if self._order[0] != epoch:
            order = list(range(len(self._rows)))
            random.Random(f"gsm8k:{self.seed}:{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._order[1][position]


def _read(path: str) -> list[tuple[str, str]]:
    if not Path(path).is_file():
        raise TaskError(f"task.options.path = {path!r}: no such file; gsm8k needs its JSON lines, such as train.jsonl")
    rows = []
    for line in json_lines(Path(path)):
        try:
            rows.append(_row(line.parse()))
        except (ValueError, LookupError, TypeError) as error:
            raise TaskError(
                f"{path}, line {line.number}: expected question and answer with '#### number': {error}"
            ) from error
    if not rows:
        raise TaskError(f"task.options.path = {path!r}: the file is empty")
    return rows


def _row(row: dict[str, Any]) -> tuple[str, str]:
    for name in ("question", "answer"):
        if not isinstance(row[name], str):
            raise TypeError(f"{name} = {row[name]!r} is no text")
    if not _final(row["answer"]):
        raise ValueError("nothing after '####'")
    return row["question"], row["answer"]


def _final(answer: str) -> str:
    _, separator, final = answer.rpartition("####")
    if not separator:
        raise ValueError("no '####' in the answer")
    return final.strip().replace(",", "")
