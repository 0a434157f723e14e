"""Prompts of a task, as a worker would draw them: held-out prompts apart from those that are trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from rollout.data.tokenizer import Tokenizer
from rollout.tasks.add import Add
from rollout.tasks.base import Prompt, Task
from rollout.tasks.held_out import is_held_out
from rollout.tasks.sort import Sort
from rollout.tasks.sumto import SumTo

# Share of the prompts that are kept for evaluation. `sumto` has but 45: it trains on all of them, and all are evaluated,
# as a policy of this size knows nothing of a target that it was never asked for.
_HELD_OUT = {"sort": 0.1, "add": 0.1, "sumto": 0.0, "uneven": 0.1}


class UnevenSort(Task):
    """Sorting of 2 to 10 digits: groups whose responses are of very different length."""

    name = "uneven"

    def prompt(self, index: int) -> Prompt:
        """Returns the prompt of an index."""
        rng = self.rng(index)
        digits = "".join(rng.choices("0123456789", k=rng.randint(2, 10)))
        return Prompt(prompt_id=f"uneven:{digits}", text=f"{digits}=", data="".join(sorted(digits)))

    def reward(self, prompt: Prompt, response: str) -> float:
        """Scores 1 for exactly the sorted digits, else 0."""
        return float(response == prompt.data)

    def solution(self, prompt: Prompt) -> str:
        """Returns the sorted digits."""
        return prompt.data


TASKS: dict[str, type[Task]] = {"sort": Sort, "add": Add, "sumto": SumTo, "uneven": UnevenSort}
MOST_TOKENS = {"sort": 7, "add": 7, "sumto": 7, "uneven": 11}  # of a response, its end token included


@dataclass(frozen=True)
class Question:
    """A prompt and its token ids."""

    prompt: Prompt
    ids: list[int]


class PromptSupply:
    """An endless supply of one task's prompts.

    Args:
        task: name of the task.
        seed: of the prompts.
        tokenizer: of the model.
        held_out: whether it supplies the prompts that are kept for evaluation, or those that are trained on.
    """

    def __init__(self, task: str, seed: int, tokenizer: Tokenizer, held_out: bool = False) -> None:
        self.task = TASKS[task](seed)
        self._tokenizer = tokenizer
        self._prompts = self._chosen(held_out)

    def take(self, count: int) -> list[Question]:
        """Returns the next ``count`` prompts."""
        prompts = itertools.islice(self._prompts, count)
        return [Question(prompt, self._tokenizer.prompt_ids(prompt.text)) for prompt in prompts]

    def _chosen(self, held_out: bool) -> Iterator[Prompt]:
        share = _HELD_OUT[self.task.name]
        for index in itertools.count():
            prompt = self.task.prompt(index)
            if not share or is_held_out(prompt.prompt_id, share) == held_out:
                yield prompt
