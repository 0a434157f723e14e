"""A response as its judge sees it: the text, and what generation knows of it."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.tasks.answers.finished import finished_text


@dataclass(frozen=True)
class JudgedResponse:
    """A response that is judged.

    Attributes:
        text: the response, its end token removed.
        tokens: number of generated tokens, the end token included; None where nobody counted.
        finish: how it ended: "stop", "length" (a limit cut it off), "abort"; empty where nobody knows.
        thinking: whether the rendered prompt has opened the reasoning (with <think>).
    """

    text: str
    tokens: int | None = None
    finish: str = ""
    thinking: bool = False

    @property
    def finished(self) -> str | None:
        """What it says outside its reasoning; None where the reasoning is not finished."""
        return finished_text(self.text, self.thinking)
