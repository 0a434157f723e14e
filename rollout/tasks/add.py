"""Addition, answered from the last digit on: 123+989= -> 2111 (1112 reversed)."""

from __future__ import annotations

from rollout.tasks.base import Prompt, Task


class Add(Task):
    """Two numbers of ``digits`` digits. The answer's digits are reversed, as carrying goes. Reward 1 for the exact answer."""

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
