"""Procedural questions of the package reasoning-gym, as the task "reasoning-gym": one answer, judged by the data set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from rollout.adapters.foreign_package import import_package
from rollout.tasks import Prompt, Task, TaskError

_REQUIREMENT = "reasoning-gym==0.1.25"


class ReasoningGym(Task):
    """Questions of one data set, by its name.

    Args:
        seed: of the data set: the worker's.
        dataset: its name in reasoning-gym, such as "basic_arithmetic".
        size: number of questions.
        config: further settings of the data set, such as {"max_terms": 3}.
        tag: what is judged is the text between <tag> and </tag>; empty: the whole response.
        instruction: text put after every question; unset: it asks for the tag.

    Raises:
        TaskError: the package is not installed.
        ValueError: there is no such data set, or it does not take the settings.
    """

    def __init__(
        self,
        seed: int = 0,
        dataset: str = "",
        size: int = 10_000,
        config: Mapping[str, Any] | None = None,
        tag: str = "answer",
        instruction: str | None = None,
    ) -> None:
        super().__init__(seed)
        gym = import_package("reasoning_gym", _REQUIREMENT)
        self._extracted = import_package("reasoning_gym.utils", _REQUIREMENT).extract_answer
        self._dataset = gym.create_dataset(dataset, seed=seed, size=size, **(config or {}))
        self._questions = size
        self._tag = tag
        asking = f"\nGive the final answer between <{tag}> and </{tag}>." if tag else ""
        self._instruction = asking if instruction is None else instruction
        self.name = f"reasoning-gym:{dataset}"

    def load(self) -> None:
        """Sets the size; questions are made when they are asked."""
        self.size = self._questions

    def prompt(self, index: int) -> Prompt:
        """Returns a question; its data is the data set's entry."""
        number = index % self._questions
        entry = self._dataset[number]
        return Prompt(f"{self.name}:{number}", entry["question"] + self._instruction, entry)

    def reward(self, prompt: Prompt, response: str) -> float:
        """Returns the data set's score of the answer; an answer without its tag is scored as none."""
        answer = self._extracted(response, self._tag) if self._tag else response.strip()
        return float(self._dataset.score_answer(answer, prompt.data))

    def solution(self, prompt: Prompt) -> str:
        """Returns the data set's own answer."""
        answer = prompt.data["answer"]
        if not isinstance(answer, str):
            raise TaskError(f"prompt {prompt.prompt_id!r}: the data set {self.name!r} has no answer to show")
        return f"<{self._tag}>{answer}</{self._tag}>" if self._tag else answer

    def fingerprint(self) -> dict[str, Any]:
        """Returns the package's release: another one may ask other questions."""
        return {"reasoning-gym": version("reasoning-gym")}
