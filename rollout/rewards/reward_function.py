"""The interface of a reward: a function of one response, of what was asked and of the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.tasks import Prompt
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError

Value = float | Mapping[str, float]


@dataclass(frozen=True)
class RewardInput:
    """What a reward is a function of.

    Attributes:
        prompt: what was asked.
        answer: the reference (``Task.answer``).
        response: what is judged.
    """

    prompt: Prompt
    answer: Any
    response: JudgedResponse

    @property
    def finished(self) -> str | None:
        """What the response says outside its reasoning; None where the reasoning is not finished."""
        return self.response.finished

    @property
    def row(self) -> Mapping[str, Any]:
        """Other columns of the prompt's row; empty where the task has none."""
        data = self.prompt.data
        row = data.get("row", {}) if isinstance(data, Mapping) else {}
        return row if isinstance(row, Mapping) else {}

    def references(self) -> list[str]:
        """Returns the reference as texts: several where each of them is right.

        Raises:
            RewardError: the prompt has none, or one that is no text and no number.
        """
        answers = list(self.answer) if isinstance(self.answer, list | tuple) else [self.answer]
        if not answers or not all(isinstance(one, str | int | float) for one in answers):
            raise RewardError(
                "reward_error",
                f"the prompt's answer is {self.answer!r:.80}: expected a text or a number, or a list of them; a task gives "
                'it as Prompt.data or Prompt.data["answer"], or by Task.answer',
            )
        return [str(one) for one in answers]


@dataclass(frozen=True)
class RewardPlace:
    """Where a reward works.

    Attributes:
        part: its name among the reward's parts.
        limit_s: seconds in which a response has to be judged, ``task.reward_timeout_s``.
        state: beginning of the paths of files that a reward may keep; None: it keeps none.
    """

    part: str
    limit_s: float = 10.0
    state: Path | None = None


class RewardFunction(ABC):
    """A reward. Its options are the keyword arguments of ``__init__``, described in the class's docstring under "Args".

    ``__init__`` raises ValueError, TypeError or LookupError for options that cannot be used.
    """

    def prepare(self, place: RewardPlace) -> None:  # noqa: B027 - most rewards keep nothing
        """Gets ready; called once, before the first response."""

    @abstractmethod
    def value(self, asked: RewardInput) -> Value | Awaitable[Value]:
        """Returns a finite number, or named parts; may be ``async def``.

        What it raises makes the whole response unscored, ``RewardError`` with a reason of its own.
        """
