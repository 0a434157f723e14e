"""Tasks of a user's own, as tests need them; also imported by hosts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rollout.tasks import Prompt, Task
from rollout.tasks.policy import EpisodePolicy


class Reverse(Task):
    """The example of rollout/tasks/base.py."""

    name = "reverse"

    def prompt(self, index: int) -> Prompt:
        word = "".join(self.rng(index).choices("0123456789", k=5))
        return Prompt(prompt_id=word, text=word + "=", data=word[::-1])

    def reward(self, prompt: Prompt, response: str) -> float:
        return float(response == prompt.data)


class Slow(Task):
    """Judged in a host. The response says what happens: "hang", "raise", "exit", "numpy", ..., or a number."""

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


class Mute(Task):
    """A task that judges nothing."""

    def prompt(self, index: int) -> Prompt:
        return Prompt("mute", "=")


class NotATask:
    """Nothing a worker could use."""


class Together(Task):
    """Judges all responses to a prompt together: the shortest one is best."""

    name = "together"

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id=str(index), text="=", data=index)

    async def group_rewards(self, prompt: Prompt, responses: Sequence[str]) -> list[float]:
        shortest = min(map(len, responses))
        return [float(len(response) == shortest) for response in responses]


class Waiting(Task):
    """Judges with a coroutine: no response has its reward before ``data`` of them are being judged at once."""

    name = "waiting"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._judged = 0
        self._all = asyncio.Event()

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id=str(index), text="=", data=index)

    async def reward(self, prompt: Prompt, response: str) -> float:
        self._judged += 1
        if self._judged >= prompt.data:
            self._all.set()
        await self._all.wait()
        return float(response)


class Playing(Task):
    """Plays episodes without asking the model. Its option ``how`` and the prompt's index say what happens.

    With an even index, the episode waits until a file named ``index`` is in the directory ``path``, and has the reward 1.
    """

    name = "playing"

    def __init__(self, seed: int = 0, how: str = "", path: str = "") -> None:
        super().__init__(seed)
        self._how = how
        self._path = Path(path)

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id=str(index), text="=", data=index)

    async def rollout(self, prompt: Prompt, policy: EpisodePolicy) -> float:
        if prompt.data % 2 == 0:
            (self._path / f"begun-{prompt.data}-{os.getpid()}").touch()
            while not (self._path / str(prompt.data)).exists():  # noqa: ASYNC110 - the test is another process
                await asyncio.sleep(0.01)
            return 1.0
        match self._how:
            case "hang":
                time.sleep(3600)  # noqa: ASYNC251 - it blocks its process
            case "wait":
                await asyncio.sleep(3600)
            case "raise":
                raise ZeroDivisionError("scripted")
            case "exit":
                os._exit(3)
            case "memory":
                self._kept = b"x" * (1 << 29)
                await asyncio.sleep(3600)
            case "print":
                print("o" * 1000, flush=True)
                return 0.5
        raise AssertionError(self._how)


async def agent(prompt: Prompt, client: Any) -> float:
    """An agent that asks for one completion."""
    answer = await client.chat.completions.create(model="policy", messages=prompt.messages)
    return float(prompt.data["answer"] in answer.choices[0].message.content)


def blocking_agent(client: Any, prompt: Prompt) -> dict[str, float]:
    """The agent again, not as a coroutine."""
    answer = client.chat.completions.create(model="policy", messages=prompt.messages)
    return {"right": float(prompt.data["answer"] in answer.choices[0].message.content)}


async def policy_agent(prompt: Prompt, policy: EpisodePolicy) -> float:
    """An agent without a client library: it asks by messages, then by token ids."""
    message = await policy.chat(prompt.messages, tools=[{"type": "function"}])
    generation = await policy.generate([1, 2, 3], max_new_tokens=5, stop=["."])
    assert generation.versions == [(7, 0, 2)]
    return float(message["content"] == "It is 4." and generation.tokens == [8, 9])


def bad_agent(prompt: Prompt, model: str) -> float:
    """An agent with a parameter that nobody can fill."""
    raise AssertionError(prompt, model)


class Where(Task):
    """Says in which process it runs: its prompt and its reward are process ids."""

    name = "where"

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id="where", text=str(os.getpid()))

    def reward(self, prompt: Prompt, response: str) -> float:
        return os.getpid()


def children_of(*parents: int) -> list[int]:
    """Process ids of all descendants."""
    return [child.pid for parent in parents for child in psutil.Process(parent).children(recursive=True)]


async def two_turns(prompt: Prompt, policy: EpisodePolicy) -> float:
    """An agent that asks twice: after the prompt, then after a token of its own."""
    first = await policy.generate(policy.prompt_tokens)
    context = [*policy.prompt_tokens, *first.tokens, 5]
    second = await policy.generate(context)
    assert [version for version, _, _ in second.versions]
    return 0.5 + 0.5 * (first.text == prompt.data)


class HalfJudged(Flaky):
    """Can judge no response that begins with an even digit."""

    name = "half"

    def reward(self, prompt: Prompt, response: str) -> float:
        if int(response[0]) % 2 == 0:
            raise LookupError("scripted")
        return 1.0
