"""Tasks of a user's own, as tests need them; also imported by reward workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from rollout.tasks import Prompt, Task


class Reverse(Task):
    """The example of rollout/tasks/base.py."""

    name = "reverse"

    def prompt(self, index: int) -> Prompt:
        word = "".join(self.rng(index).choices("0123456789", k=5))
        return Prompt(prompt_id=word, text=word + "=", data=word[::-1])

    def reward(self, prompt: Prompt, response: str) -> float:
        return float(response == prompt.data)


class Slow(Task):
    """Scored in a reward worker. The response says what happens: "hang", "raise", "exit", "numpy", ..., or a number."""

    name = "slow"

    slow = True

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id=str(index), text="=", data=index)

    def reward(self, prompt: Prompt, response: str) -> float | dict[str, float]:
        if response == "hang":
            time.sleep(3600)
        if response == "raise":
            raise ZeroDivisionError("scripted")
        if response == "exit":
            os._exit(1)
        if response == "numpy":
            return {"right": np.True_, "short": np.float32(0.5)}  # pyright: ignore[reportReturnType]
        if response == "print":
            print("not an answer", flush=True)
            return 0.5
        if response.startswith("data "):
            return float(response == f"data {prompt.data!r}")
        if response == "parts":
            return {"format": 0.25, "answer": float(prompt.data)}
        return float(response or 0)


class Quick(Task):
    """Scored in place. A response with "raise" in it raises; any other is the number that it spells."""

    name = "quick"

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id=str(index), text="=", data=index)

    def reward(self, prompt: Prompt, response: str) -> float:
        if "raise" in response:
            raise ValueError("scripted")
        return float(response)


class Flaky(Task):
    """The task sort, but for its reward: it raises for every prompt whose index is a multiple of ``every``."""

    name = "flaky"

    def __init__(self, seed: int = 0, every: int = 2) -> None:
        super().__init__(seed)
        self._every = every

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id=f"flaky:{index}", text=f"{1_000_000 + index}=", data=index)

    def reward(self, prompt: Prompt, response: str) -> float:
        if prompt.data % self._every == 0:
            raise LookupError("scripted")
        return 1.0


class Rows(Task):
    """Finite data without an end of its own: it has no prompt beyond the last row, and does not say its size."""

    name = "rows"

    def prompt(self, index: int) -> Prompt:
        text = ("1=", "2=", "3=")[index]
        return Prompt(prompt_id=text, text=text)

    def reward(self, prompt: Prompt, response: str) -> float:
        return 0.0


class Broken(Task):
    """Data that cannot be loaded: ``how`` says what goes wrong."""

    def __init__(self, seed: int = 0, how: str = "") -> None:
        super().__init__(seed)
        self._how = how

    def load(self) -> None:
        if self._how == "key":
            raise KeyError("question")
        if self._how == "file":
            Path("/no/such/data").read_text()
        self.size = 0

    def prompt(self, index: int) -> Prompt:
        raise AssertionError("nothing to ask")

    def reward(self, prompt: Prompt, response: str) -> float:
        return 0.0


class NotATask:
    """Nothing a worker could use."""
