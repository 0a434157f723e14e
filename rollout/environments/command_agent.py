"""An agent that is a program, as a task: started once per episode, it prints its reward on the last line of its stdout."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout.environments.asked_elsewhere import AskedElsewhere, public_prompt
from rollout.environments.guard import GUARD
from rollout.tasks import Prompt, Reward, Task
from rollout.tasks.policy import EpisodePolicy

_KEPT = 1 << 16  # bytes of each output that are kept: the reward is at the end
_SHOWN = 300  # characters of its last words in a message


class AgentError(Exception):
    """A program that gave no reward."""


class CommandAgent(AskedElsewhere):
    """An agent that is a program.

    It finds the prompt as one line of JSON on stdin ({"prompt_id", "prompt" or "messages", "data"}), the episode's endpoint
    and key in OPENAI_BASE_URL, OPENAI_API_KEY, ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY, and the model's name in
    LEEWAY_MODEL. The last line of its stdout is the reward: a number, or an object of named numbers; it ends with status 0.
    It is killed with its process group when the episode is over.

    Args:
        name: its name in messages.
        command: program and arguments; "python" is this process's interpreter.
        prompts: the task that asks.
    """

    def __init__(self, name: str, command: Sequence[str], prompts: Task) -> None:
        super().__init__(name, prompts)
        self._command = list(command)

    async def rollout(self, prompt: Prompt, policy: EpisodePolicy) -> Reward:
        """Runs the program once.

        Raises:
            AgentError: it ended with another status than 0, or its last line is no JSON.
            TypeError: the prompt's data cannot be written as JSON.
        """
        asked = json.dumps(public_prompt(prompt)).encode() + b"\n"
        read_end, write_end = os.pipe()
        try:
            process = await self._start(policy, write_end)
        finally:
            os.close(write_end)
        try:
            printed, said = await _communicate(process, asked)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            status = os.read(read_end, 16).decode()  # all writers have ended
            os.close(read_end)
        sys.stderr.write(said)
        return _reward(printed, said, status)

    async def _start(self, policy: EpisodePolicy, report: int) -> asyncio.subprocess.Process:
        # The guard kills the program's process group when this process is killed: no program outlives its host.
        guard = [sys.executable, "-S", "-E", str(GUARD), f"{os.getpid()}:{report}"]
        return await asyncio.create_subprocess_exec(
            *guard,
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
            pass_fds=(report,),
            env=_environment(policy),
        )


def _environment(policy: EpisodePolicy) -> dict[str, str]:
    interpreter = Path(sys.executable).parent  # "python" is the one that was chosen, as in a virtualenv that is active
    return {
        **os.environ,
        "PATH": f"{interpreter}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "OPENAI_BASE_URL": policy.base_url,
        "OPENAI_API_KEY": policy.api_key,
        "ANTHROPIC_BASE_URL": policy.base_url.removesuffix("/v1"),  # that library adds /v1 itself
        "ANTHROPIC_API_KEY": policy.api_key,
        "LEEWAY_MODEL": policy.model,
    }


async def _communicate(process: asyncio.subprocess.Process, asked: bytes) -> tuple[str, str]:
    """Writes the prompt, reads both outputs to their ends, and returns the last part of each."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    reading = asyncio.gather(_last_part(process.stdout), _last_part(process.stderr))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a program need not read its stdin
        process.stdin.write(asked)
        await process.stdin.drain()
    process.stdin.close()
    printed, said = await reading
    return printed, said


async def _last_part(stream: asyncio.StreamReader) -> str:
    kept = b""
    while block := await stream.read(_KEPT):
        kept = (kept + block)[-_KEPT:]
    return kept.decode(errors="replace")


def _reward(printed: str, said: str, status: str) -> Any:
    last = next((line for line in reversed(printed.splitlines()) if line.strip()), "")
    words = repr(said.strip()[-_SHOWN:])
    if status != "0":
        raise AgentError(
            f"the program ended with status {status or 'unknown: it was killed'}; its stderr ends with {words}"
        )
    try:
        return json.loads(last)
    except ValueError:
        raise AgentError(
            f"the last line of its stdout is no reward: {last[:_SHOWN]!r}: expected a number or an object of named numbers; "
            f"its stderr ends with {words}"
        ) from None
