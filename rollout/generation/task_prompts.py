"""The prompts of one task that its worker asks: those of its cursor, but for held-out and resting ones."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Literal, Protocol

import structlog

from rollout.config import TaskConfig
from rollout.data.prompt_cursor import PromptSource
from rollout.data.prompt_memory import RESTING, PromptMemory, Resting
from rollout.environments.pool import EnvironmentPool
from rollout.tasks import Prompt, TaskError
from rollout.tasks.held_out import is_held_out

PassedOver = Literal["held_out", Resting]
PASSED_OVER: tuple[PassedOver, ...] = ("held_out", *RESTING)

_AT_ONCE = 5000  # indices that are looked at before other tasks of the event loop have a turn
_MOST_MADE = 64  # prompts that are made at once to find one that is asked
_CERTAIN = 40.0  # of endless prompts, as many are held out in a row by chance once in e^40 searches


class SupplyObserver(Protocol):
    """Counts what happens to the prompts of tasks."""

    def passed_over(self, task: str, why: PassedOver, prompts: int) -> None:
        """Counts prompts that were not asked when it was their turn; ``task`` is the label."""
        ...

    def rest_cut_short(self, task: str) -> None:
        """Counts that every prompt of a task rested, so that the next ones are asked early."""
        ...

    def pass_rate(self, task: str, rate: float) -> None:
        """Notes the pass rate of a prompt whose group was made, from 0 to 1."""
        ...


class TaskPrompts:
    """The supply of one task.

    Args:
        config: settings of the task.
        environments: the task's; they make its prompts.
        source: its indices.
        memory: of its prompts; None: none rests.
        observer: counts what is passed over.
    """

    def __init__(
        self,
        config: TaskConfig,
        environments: EnvironmentPool,
        source: PromptSource,
        memory: PromptMemory | None,
        observer: SupplyObserver,
    ) -> None:
        self._config = config
        self._environments = environments
        self._source = source
        self._memory = memory
        self._observer = observer

    async def take(self, count: int) -> list[tuple[int, Prompt]]:
        """Hands out the next prompts with their indices. What is passed over is done.

        Where every prompt rests, those that would be asked first are asked early: waiting would end the rest no sooner.

        Raises:
            TaskError: the task did not make a prompt, or all its prompts are held out.
        """
        found: list[tuple[int, Prompt]] = []
        rested = held = 0  # in a row, since one was found
        while len(found) < count:
            missing = count - len(found)
            indices, resting = self._awake(max(missing, min(held, _MOST_MADE)))
            prompts = await self._environments.prompts(indices) if indices else []
            asked = [pair for pair in zip(indices, prompts, strict=True) if not self._held_out(pair[1])]
            self._pass_over("held_out", indices, {index for index, _ in asked})
            found += asked[:missing]
            self._source.give_back(index for index, _ in asked[missing:])
            rested, held = (0, 0) if asked else (rested + resting, held + len(indices))
            if rested + held >= self._certain():
                self._ask_early(rested, held)
                rested = held = 0
            await asyncio.sleep(0)
        return found

    def learn(self, index: int, rewards: Sequence[float]) -> None:
        """Remembers the rewards of a prompt's group."""
        if self._memory is None:
            return
        self._memory.note(index, rewards)
        rate = self._memory.pass_rate(index)
        if rate is not None:
            self._observer.pass_rate(self._config.label, rate)

    def done(self, indices: Sequence[int]) -> None:
        """Marks prompts as done for good, and writes that, with what is remembered of them."""
        self._source.done(indices)
        if self._memory is not None:
            self._memory.save()

    def resting(self) -> dict[Resting, int]:
        """Returns how many prompts rest, by why."""
        return dict.fromkeys(RESTING, 0) if self._memory is None else self._memory.resting()

    def _awake(self, count: int) -> tuple[list[int], int]:
        """Takes indices that do not rest; returns with them how many rested."""
        memory = self._memory
        if memory is None:
            return self._source.take(count), 0
        rested: dict[Resting, int] = dict.fromkeys(RESTING, 0)

        def rests(index: int) -> bool:
            why = memory.rests(index)
            if why is not None:
                rested[why] += 1
            return why is not None

        indices = self._source.take(count, rests, min(_AT_ONCE, self._certain()))
        for why, prompts in rested.items():
            if prompts:
                self._observer.passed_over(self._config.label, why, prompts)
        return indices, sum(rested.values())

    def _held_out(self, prompt: Prompt) -> bool:
        return is_held_out(prompt.prompt_id, self._config.held_out)

    def _pass_over(self, why: PassedOver, indices: Sequence[int], but: set[int]) -> None:
        passed = [index for index in indices if index not in but]
        if passed:
            self._source.done(passed)
            self._observer.passed_over(self._config.label, why, len(passed))

    def _certain(self) -> int:
        """Number of prompts in a row, passed over, after which no prompt is left that is asked: a pass over the data."""
        size = self._environments.task.size
        return size if size is not None else math.ceil(_CERTAIN / (1.0 - self._config.held_out))

    def _ask_early(self, rested: int, held: int) -> None:
        """Ends the rest of those prompts that would be asked first. Raises TaskError where none rests: all are held out."""
        if not rested or self._memory is None:
            share = self._config.held_out
            raise TaskError(
                f"task.name = {self._config.name!r}: {held} prompts in a row are held out, none is left to train on: "
                f"task.held_out = {share:g}: lower it, or see that prompts have ids of their own"
            )
        self._memory.skip()
        self._observer.rest_cut_short(self._config.label)
        structlog.get_logger().warning("every prompt rests: some are asked early", task=self._config.label)
