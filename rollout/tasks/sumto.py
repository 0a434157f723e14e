"""The task sumto: any digits that add up to a target: 17= -> 98, or 773. Many answers are right."""

from __future__ import annotations

from rollout.tasks.base import Prompt, Task


class SumTo(Task):
    """Targets 1 to ``largest``. The reward is 1 for at most ``length`` digits that add up to the target, else 0."""

    name = "sumto"

    def __init__(self, seed: int = 0, largest: int = 45, length: int = 6) -> None:
        super().__init__(seed)
        if not 1 <= largest <= 9 * length:
            raise ValueError(f"largest = {largest}: {length} digits reach 1 to {9 * length}")
        self.largest = largest
        self.length = length

    def prompt(self, index: int) -> Prompt:
        target = self.rng(index).randint(1, self.largest)
        return Prompt(prompt_id=f"sumto:{target}", text=f"{target}=", data=target)

    def reward(self, prompt: Prompt, response: str) -> float:
        # isascii: int() would also accept the digits of other scripts
        if not (response.isascii() and response.isdigit() and len(response) <= self.length):
            return 0.0
        return float(sum(map(int, response)) == prompt.data)

    def solution(self, prompt: Prompt) -> str:
        """Returns one of the right answers: as few digits as possible, the largest first."""
        nines, rest = divmod(prompt.data, 9)
        return "9" * nines + (str(rest) if rest else "")
