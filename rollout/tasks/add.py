"""The task add: a sum, its last digit first: 123+989= -> 2111 (1112 reversed)."""

from __future__ import annotations

from rollout.tasks.base import Prompt, Task


class Add(Task):
    """Sums of two numbers of ``digits`` digits, answered with the digits reversed, which is the order of carrying.

    The reward is 1 for exactly the reversed sum, else 0.
    """

    name = "add"

    def __init__(self, seed: int = 0, digits: int = 3) -> None:
        super().__init__(seed)
        if digits < 1:
            raise ValueError(f"digits = {digits}: at least 1")
        self.digits = digits

    def prompt(self, index: int) -> Prompt:
        rng = self.rng(index)
        left, right = (rng.randrange(10**self.digits) for _ in range(2))
        text = f"{left:0{self.digits}d}+{right:0{self.digits}d}="
        return Prompt(prompt_id=f"add:{text}", text=text, data=str(left + right)[::-1])

    def reward(self, prompt: Prompt, response: str) -> float:
        return float(response == prompt.data)

    def solution(self, prompt: Prompt) -> str:
        return prompt.data
