"""Tasks of a user's own, as tests need them; also imported by reward workers."""

from __future__ import annotations

import time

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
    """Scored in a reward worker. The response says what happens: "hang", "raise", "print", "parts", or a number."""

    slow = True

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id=str(index), text="=", data=index)

    def reward(self, prompt: Prompt, response: str) -> float | dict[str, float]:
        if response == "hang":
            time.sleep(3600)
        if response == "raise":
            raise ZeroDivisionError("scripted")
        if response == "print":
            print("not an answer", flush=True)
            return 0.5
        if response == "parts":
            return {"format": 0.25, "answer": float(prompt.data)}
        return float(response or 0)


class NotATask:
    """Nothing a worker could use."""
