"""Tasks whose prompts another task makes, as agents need them: an agent answers, and knows no questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollout.tasks import Prompt, Task


class AskedElsewhere(Task):
    """A task that asks what another one asks.

    Args:
        name: its name in messages.
        prompts: the task that asks.
    """

    def __init__(self, name: str, prompts: Task) -> None:
        super().__init__(prompts.seed)
        self.name = name
        self.stop = prompts.stop
        self._prompts = prompts

    def load(self) -> None:
        self._prompts.load()
        self.size = self._prompts.size
        self.unusable_rows = self._prompts.unusable_rows

    def prompt(self, index: int) -> Prompt:
        return self._prompts.prompt(index)

    def solution(self, prompt: Prompt) -> str | None:
        return self._prompts.solution(prompt)

    def fingerprint(self) -> dict[str, Any]:
        return self._prompts.fingerprint()


def public_prompt(prompt: Prompt) -> Mapping[str, Any]:
    """Returns a prompt as agents in other processes see it, in their JSON: prompt_id, prompt or messages, and data."""
    asked = {"messages": list(prompt.messages)} if prompt.messages else {"prompt": prompt.text}
    return {"prompt_id": prompt.prompt_id, **asked, "data": prompt.data}
