"""A prompt that is asked: which task it is of, and where in the task's data it stands."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.tasks import Prompt


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt with its place. Two tasks of a mixture have prompts of equal indices: both together say which one is meant.

    Attributes:
        task: number of the task in the worker's settings.
        index: the task's own prompt index.
        prompt: what is asked.
    """

    task: int
    index: int
    prompt: Prompt
