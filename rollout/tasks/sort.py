"""The task sort: digits in, the sorted digits out: 314159= -> 113459."""

from __future__ import annotations

from rollout.tasks.base import Prompt, Task


class Sort(Task):
    """Strings of ``digits`` random digits. The reward is 1 for exactly the sorted digits, else 0."""

    name = "sort"

    def __init__(self, seed: int = 0, digits: int = 6) -> None:
        super().__init__(seed)
        if digits < 1:
            raise ValueError(f"digits = {digits}: at least 1")
        self.digits = digits

    def prompt(self, index: int) -> Prompt:
        digits = "".join(self.rng(index).choices("0123456789", k=self.digits))
        return Prompt(prompt_id=f"sort:{digits}", text=f"{digits}=", data="".join(sorted(digits)))

    def reward(self, prompt: Prompt, response: str) -> float:
        return float(response == prompt.data)

    def solution(self, prompt: Prompt) -> str:
        return prompt.data
