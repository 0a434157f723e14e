"""The interface of a task.

A task of your own is about twenty lines:

    class Reverse(Task):
        name = "reverse"

        def prompt(self, index):
            word = "".join(self.rng(index).choices("0123456789", k=5))
            return Prompt(prompt_id=word, text=word + "=", data=word[::-1])

        def reward(self, prompt, response):
            return float(response == prompt.data)

Name it in the worker's configuration as ``task.name = "my_module:Reverse"``; ``task.options`` become keyword arguments of
``__init__``, next to ``seed``.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from runtime.errors import MISCONFIGURED, LeewayError

Reward = float | dict[str, float]


class TaskError(LeewayError):
    """A task that cannot be loaded or used. The message names the option and the remedy."""

    exit_status = MISCONFIGURED


@dataclass(frozen=True)
class Prompt:
    """One question.

    Attributes:
        prompt_id: its name in the ledger and in logs, 1 to 256 bytes; the same question always has the same name.
        text: what the model reads.
        data: whatever ``reward`` needs to score a response. It never leaves the machine: it is pickled where responses are
            scored in a process of its own.
    """

    prompt_id: str
    text: str
    data: Any = None


class Task(ABC):
    """A supply of prompts, and the reward of a response.

    ``prompt`` must be a function of (seed, index) alone: a worker that restarts asks again for the indices whose groups
    were not acknowledged. ``reward`` must be a function of (prompt, response) alone: slow tasks score in processes that may
    be started at any time and do not load the data.

    Attributes:
        name: its name in groups and messages.
        size: with finite data, the number of its prompts: indices 0 to size - 1 are the first pass over them, the next size
            indices the second, and so on. All workers of a fleet then share the data (see rollout/data/prompt_order.py).
            None: endless; a fleet's workers ask for indices far apart.
        stop: texts, each one token of the model, that end a response besides the model's end token.
        slow: True: responses are scored in processes of their own, under a time limit.
        seed: the worker's seed.
    """

    name: str = ""
    size: int | None = None
    stop: tuple[str, ...] = ()
    slow: bool = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def load(self) -> None:  # noqa: B027 - tasks without data need none
        """Reads the data that prompts are made of, and sets ``size``; called once, before the first prompt.

        What is read here and not in ``__init__`` is not read again by every process that scores responses.
        """

    @abstractmethod
    def prompt(self, index: int) -> Prompt:
        """Returns the prompt of any index >= 0."""

    @abstractmethod
    def reward(self, prompt: Prompt, response: str) -> Reward:
        """Scores one response, its end token removed: a finite number, or named parts whose sum is the reward.

        Numbers of numpy are numbers. A response that cannot be scored is an error to raise, not a reward of 0: its group is
        then withdrawn, counted and logged, and the worker ends when that happens to most groups.
        """

    def solution(self, prompt: Prompt) -> str | None:
        """Returns a right answer, for supervised warm starts; None where the task knows none."""
        return None

    def fingerprint(self) -> dict[str, Any]:
        """Returns what else prompts are made of, besides name, seed, options and the files that options name.

        For example a digest of a directory. When a value changes, a worker does not go on as if nothing had happened.
        """
        return {}

    def rng(self, index: int) -> random.Random:
        """Returns a random generator that depends on the task, the seed and the index alone."""
        return random.Random(f"{type(self).__qualname__}:{self.seed}:{index}")
