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

An environment of several turns is a task with a ``rollout`` of its own:

    class Guess(Task):
        name = "guess"

        def prompt(self, index):
            question = {"role": "user", "content": "Guess my number, 1 to 9."}
            return Prompt(f"guess:{index}", messages=[question], data=index % 9 + 1)

        async def rollout(self, prompt, policy):
            messages = list(prompt.messages)
            for turn in range(3):
                answer = await policy.chat(messages)
                if answer["content"].strip() == str(prompt.data):
                    return 1.0 - 0.25 * turn
                messages += [answer, {"role": "user", "content": "No. Again."}]
            return 0.0

Tasks of your own run in processes of their own (rollout/environments/), perhaps in a virtualenv of their own: this package
imports nothing but the standard library.
"""

from __future__ import annotations

import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.policy import EpisodePolicy
from rollout.tasks.row_error import UnusableRow
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
        text: what the model reads; with ``task.prompt_format = "chat"``, as a user turn. Empty where there are messages.
        data: whatever ``reward`` needs to score a response. It never leaves the machine: it is pickled where responses are
            scored in a process of its own.
        messages: what the model reads as a conversation, in OpenAI's form, a system turn perhaps first; rendered with the
            model's chat template.

    Raises:
        TaskError: it has both text and messages.
    """

    prompt_id: str
    text: str = ""
    data: Any = None
    messages: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.text and self.messages:
            raise TaskError(f"prompt {self.prompt_id!r} has text and messages: give it one of the two")


class Task(ABC):
    """A supply of prompts, and the reward of a response.

    ``prompt`` must be a function of (seed, index) alone: a worker that restarts asks again for the indices whose groups
    were not acknowledged. What judges must be a function of its arguments alone: it runs in processes that may be started
    at any time and do not load the data. One of ``reward``, ``group_rewards`` and ``rollout`` has to be there.

    Attributes:
        name: its name in messages.
        size: with finite data, the number of its prompts: indices 0 to size - 1 are the first pass over them, the next size
            indices the second, and so on. All workers of a fleet then share the data (see rollout/data/prompt_order.py).
            None: endless; a fleet's workers ask for indices far apart.
        stop: texts, each one token of the model, that end a response besides the model's end token.
        slow: True: a built-in task whose responses are scored in processes of their own, under a time limit; those of other
            tasks always are.
        tools: descriptions of tools, in OpenAI's form, that ``conversation`` is rendered with.
        seed: the worker's seed.
        unusable_rows: number of rows of the data of which no prompt is made, by reason; set by ``load``.
    """

    name: str = ""
    size: int | None = None
    stop: tuple[str, ...] = ()
    slow: bool = False
    tools: Sequence[Mapping[str, Any]] = ()
    unusable_rows: Mapping[UnusableRow, int] = {}

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def load(self) -> None:  # noqa: B027 - tasks without data need none
        """Reads the data that prompts are made of, and sets ``size``; called once, before the first prompt.

        What is read here and not in ``__init__`` is not read again by every process that scores responses.
        """

    @abstractmethod
    def prompt(self, index: int) -> Prompt:
        """Returns the prompt of any index >= 0."""

    def reward(self, prompt: Prompt, response: str) -> Reward | Awaitable[Reward]:
        """Scores one response, its end token removed: a finite number, or named parts whose sum is the reward.

        May be ``async def``. Numbers of numpy are numbers. A response that cannot be scored is an error to raise, not a
        reward of 0: it is then unscored, counted and logged, and the worker ends when that happens to most.
        """
        raise NotImplementedError("reward")

    def judge(self, prompt: Prompt, response: JudgedResponse) -> Reward | Awaitable[Reward]:
        """Scores one response whose length, end or reasoning counts as well; for the others it asks ``reward``.

        It is what is asked for a response of one turn. May be ``async def``.
        """
        return self.reward(prompt, response.text)

    def answer(self, prompt: Prompt) -> Any:
        """Returns the reference that a response is compared with, where ``task.reward`` names the judges.

        The value "answer" of ``Prompt.data`` where that is a mapping with one, else the data itself. A list holds several
        answers each of which is right.
        """
        data = prompt.data
        return data["answer"] if isinstance(data, Mapping) and "answer" in data else data

    def group_rewards(self, prompt: Prompt, responses: Sequence[str]) -> Sequence[Reward] | Awaitable[Sequence[Reward]]:
        """Scores all responses to a prompt together; where a task defines it, ``reward`` is not asked.

        May be ``async def``. For tasks without a ``rollout`` of their own.

        Args:
            prompt: what was asked.
            responses: texts, their end tokens removed; only those that can be scored, perhaps fewer than the group has.

        Returns:
            One reward per response, in their order.
        """
        raise NotImplementedError("group_rewards")

    async def rollout(self, prompt: Prompt, policy: EpisodePolicy) -> Reward:
        """Plays one episode and returns its reward. This one generates once and judges once.

        What it raises makes the response unscored. It shares its process with other episodes: await, do not block.
        """
        generation = await policy.generate(policy.prompt_tokens)
        reward = self.reward(prompt, generation.text)
        return await reward if inspect.isawaitable(reward) else reward

    def solution(self, prompt: Prompt) -> str | None:
        """Returns a right answer, for supervised warm starts; None where the task knows none."""
        return None

    def conversation(self, prompt: Prompt) -> Sequence[Mapping[str, Any]] | None:
        """Returns a whole episode that earns the reward, for supervised warm starts of tasks with several turns.

        Messages in OpenAI's form, those of the prompt first; the assistant's are learned, the others are context. None where
        there is none, or where ``solution`` is enough.
        """
        return None

    def fingerprint(self) -> dict[str, Any]:
        """Returns what else prompts are made of, besides name, seed, options and the files that options name.

        For example a digest of a directory. Under the name of an option it stands instead of the option: what the option
        names may then be moved. When a value changes, a worker does not go on as if nothing had happened.
        """
        return {}

    def rng(self, index: int) -> random.Random:
        """Returns a random generator that depends on the task, the seed and the index alone."""
        return random.Random(f"{type(self).__qualname__}:{self.seed}:{index}")
