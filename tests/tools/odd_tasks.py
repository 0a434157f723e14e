"""Tasks that a user might write: with a mistake each, or with a habit that must do no harm."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from rollout.tasks import Prompt, Task


class Plain(Task):
    """Prompts of ``digits`` digits, whose right answer is the digits again."""

    name = "plain"

    def __init__(self, seed: int = 0, digits: int = 3) -> None:
        super().__init__(seed)
        self.digits = digits

    def prompt(self, index: int) -> Prompt:
        text = str(index % 10) * self.digits
        return Prompt(f"plain:{text}", text, text)

    def reward(self, prompt: Prompt, response: str) -> Any:
        return float(response == prompt.data)

    def solution(self, prompt: Prompt) -> str | None:
        return prompt.data


class Talkative(Plain):
    """Prints what looks like a finding, to every stream, in every call."""

    def prompt(self, index: int) -> Prompt:
        for stream in (sys.stdout, sys.stderr):
            print('{"finding": ["task", "fail", "printed", ""]}', file=stream)
        os.write(1, b'{"done": true}\n')
        return super().prompt(index)


class Hanging(Plain):
    """Never returns a reward."""

    def reward(self, prompt: Prompt, response: str) -> Any:
        threading.Event().wait()


class Ending(Plain):
    """Ends the process in place of a prompt."""

    def prompt(self, index: int) -> Prompt:
        print("no licence\x1b[2J", file=sys.stderr, flush=True)
        os._exit(7)


class Raising(Plain):
    """Has data with a bad row."""

    def prompt(self, index: int) -> Prompt:
        if index == 20:
            raise KeyError("question")
        return super().prompt(index)


class Undecided(Plain):
    """Rewards everything alike."""

    def reward(self, prompt: Prompt, response: str) -> Any:
        return 0.5


class Infinite(Plain):
    """Rewards nothing with a number."""

    def reward(self, prompt: Prompt, response: str) -> Any:
        return float("nan")


class Changing(Plain):
    """Makes another prompt each time."""

    def prompt(self, index: int) -> Prompt:
        self.digits += 1
        return super().prompt(index)


class Uneven(Plain):
    """Every third prompt is long."""

    def prompt(self, index: int) -> Prompt:
        text = "7" * (50 if index % 3 == 0 else 5)
        return Prompt(f"uneven:{index}", text, text)


class Unsolved(Plain):
    """Knows no right answers."""

    def solution(self, prompt: Prompt) -> str | None:
        return None


class Finite(Plain):
    """Has four prompts, and reads them when it is loaded."""

    def load(self) -> None:
        self.size = 4

    def prompt(self, index: int) -> Prompt:
        assert self.size, "not loaded"
        return super().prompt(index % self.size)


class Slow(Plain):
    """Is scored in a process of its own."""

    slow = True


class Broken(Plain):
    """Cannot be made."""

    def __init__(self, seed: int = 0) -> None:
        raise ZeroDivisionError("of what")
