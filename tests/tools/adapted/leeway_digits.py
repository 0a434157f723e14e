"""An environment of verifiers, run by its own virtualenv: the agent asks for a digit, and for a higher one.

Its agent runs in the process that plays, so that nothing has to be installed when it starts.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import verifiers.v1 as vf
from openai import AsyncOpenAI

__all__ = ["AskingTwice", "Digits"]


class DigitData(vf.TaskData):
    """One question. ``least`` is the smallest second digit that is right; -1: its judge fails."""

    least: int


class DigitTask(vf.Task[DigitData]):
    """Two rewards and a metric."""

    @vf.reward(weight=0.25)
    async def digits(self, trace: Any) -> float:
        """The share of the answers that are one digit."""
        said = [message.content or "" for message in trace.assistant_messages]
        return sum(len(text) == 1 and text.isdigit() for text in said) / len(said)

    @vf.reward(weight=0.75)
    async def high(self, trace: Any) -> float:
        """Whether the second answer is high enough."""
        if self.data.least < 0:
            raise ValueError("no digit is less")
        return float(trace.last_reply.isdigit() and int(trace.last_reply) >= self.data.least)

    @vf.metric
    async def turns(self, trace: Any) -> float:
        """The number of answers, which is no reward."""
        return float(len(trace.assistant_messages))


class DigitSettings(vf.TasksetConfig):
    """How many questions there are; 0: no end of them."""

    count: int = 4
    least: int = 5


class Digits(vf.Taskset[DigitTask, DigitSettings]):
    """The questions."""

    def load(self) -> Any:
        """Returns the questions."""
        if not self.config.count:
            raise ValueError("no question")
        return [
            DigitTask(
                DigitData(prompt=f"Say a digit ({number}).", system_prompt="Be brief.", least=self.config.least),
                self.config.task,
            )
            for number in range(self.config.count)
        ]


class AskingTwice(vf.Harness[vf.HarnessConfig]):
    """The agent: two turns of one conversation."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: Any, data: Any
    ) -> Any:
        """Asks twice."""
        system, prompt = self.resolve_prompt(data)
        messages: list[Any] = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0) as client:
            for further in ("Higher.", None):
                answer = await client.chat.completions.create(model=ctx.model, messages=messages)
                messages.append({"role": "assistant", "content": answer.choices[0].message.content})
                if further is not None:
                    messages.append({"role": "user", "content": further})
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")
