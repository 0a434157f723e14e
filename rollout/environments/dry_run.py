"""A dry run of a task, `python -m rollout.environments.dry_run`: loads it, renders its prompts, scores two responses.

`leeway doctor` and `leeway up` start it as a process of its own, because a task is a user's code: it may print, hang or end
the process. One line of JSON comes in, a ``DryRun``. Lines of JSON go out, each as soon as it is known: {"begin": what comes
next}, {"finding": [check, state, text, fix]}, {"lengths": {...}}, {"rewards": {...}}, and at the end {"done": true}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import Field

from rollout.config import WorkerConfig
from rollout.data.demo_model import write_model
from rollout.data.prompt_ids import prompt_ids
from rollout.data.tokenizer import Tokenizer
from rollout.environments.description import describe_task
from rollout.environments.loading import TaskSpec, load
from rollout.environments.one_judgement import judge_once
from rollout.environments.task_spec import spec_of
from rollout.tasks import Prompt, Task
from rollout.tasks.held_out import is_held_out
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError, describe
from runtime.errors import LeewayError
from runtime.settings import Settings

_SHOWN_CHARACTERS, _SHOWN_IDS = 160, 24
_LONGEST_ID = 256  # bytes of a prompt's id, as the gateway accepts it


class DryRun(Settings):
    """What to try, and of how much."""

    config: WorkerConfig = Field(description="of the worker; the first of its tasks is tried")
    demo_model: str = Field(default="", description="use this demo's model, which need not be there yet")
    prompts: int = Field(default=1000, gt=0, description="most prompts that are measured")
    measure_s: float = Field(default=20.0, gt=0, description="seconds after which no more are measured")
    longest: int | None = Field(
        default=None, description="tokens of the longest prompt that fits; unset: none is counted"
    )
    brief: bool = Field(
        default=False,
        description="only what needs no process and no slow import: slow tasks score nothing",
    )


@dataclass(frozen=True)
class FindingWriter:
    """Writes what is found, one line of JSON each.

    Attributes:
        demo: where the demo's model is for the moment, which no message shows.
    """

    lines: TextIO
    demo: str

    def write(self, **values: Any) -> None:
        """Writes one line."""
        self.lines.write(json.dumps(values) + "\n")
        self.lines.flush()

    def find(self, check: str, state: Literal["ok", "warn", "fail"], text: str, fix: str = "") -> None:
        """Writes a finding, as `leeway doctor` prints it."""
        self.write(finding=[check, state, text.replace(self.demo, "the demo's model"), fix])


class _Over(Exception):
    """The dry run cannot go on; why has been written."""


def main() -> None:
    """Runs the dry run that stdin describes."""
    # stdout carries the findings; what a task prints must not mix with them.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = DryRun.parse(json.loads(sys.stdin.readline()), source="dry run")
    with tempfile.TemporaryDirectory() as directory:
        demo = Path(directory) / "demo"
        report = FindingWriter(lines, str(demo))
        if asked.demo_model:
            write_model(demo, asked.config.seed, tools=asked.demo_model == "demo-tools")
            asked = asked.model_copy(update={"config": asked.config.model_copy(update={"model": demo})})
        with contextlib.suppress(_Over):
            _try_all(asked, report)
        report.write(done=True)


def _try_all(asked: DryRun, report: FindingWriter) -> None:
    config = asked.config
    named = f"task.name = {config.task[0].name!r}"
    report.write(begin=f"{named}: loading it")
    task = _load(config, report)
    report.write(begin="the tokenizer")
    tokenizer = _tokenizer(asked, report)
    report.write(begin=f"{named}: making and rendering prompts")
    prompt = _first_prompt(task, tokenizer, config, report)
    _measure(task, tokenizer, asked, report)
    if not (describe_task(task).plays or (asked.brief and task.slow)):
        report.write(begin=f"{named}: scoring a response")
        asyncio.run(_score(task, tokenizer, prompt, config, report))


def _load(config: WorkerConfig, report: FindingWriter) -> Task:
    try:
        return load(_spec(config))
    except LeewayError as error:
        report.find("task", "fail", str(error), "correct rollout.task, or run where the module can be imported")
    except Exception as error:  # noqa: BLE001 - the user's module: whatever it raises is written
        text = f"task.name = {config.task[0].name!r}: loading it raised {_described(None, error)}"
        report.find("task", "fail", text, "correct the task's module or its options")
    raise _Over


def _spec(config: WorkerConfig) -> TaskSpec:
    return spec_of(config.task[0], config.seed)


def _tokenizer(asked: DryRun, report: FindingWriter) -> Tokenizer:
    try:
        tokenizer = Tokenizer(asked.config.model)
        if asked.config.task[0].prompt_format == "chat":
            _ = tokenizer.chat_template  # read now: whether there is one
        return tokenizer
    except LeewayError as error:
        report.find("tokenizer", "fail", str(error), "use the model's own tokenizer files")
    raise _Over


def _first_prompt(task: Task, tokenizer: Tokenizer, config: WorkerConfig, report: FindingWriter) -> Prompt:
    """Renders prompt 0 as the worker would send it, and shows it."""
    try:
        prompt, again = task.prompt(0), task.prompt(0)
        if (prompt.prompt_id, prompt.text, prompt.messages) != (again.prompt_id, again.text, again.messages):
            text = f"prompt(0) gave {prompt.prompt_id!r} and then {again.prompt_id!r}, or another text"
            report.find(
                "task", "warn", text, "make it a function of seed and index alone: a restarted worker asks again"
            )
        stops = [tokenizer.single_id(stop) for stop in task.stop]
        ids = prompt_ids(prompt, tokenizer, config.task[0])
    except LeewayError as error:
        report.find("task", "fail", str(error), "correct rollout.task.prompt_format, or the task")
        raise _Over from error
    except Exception as error:
        text = f"task.name = {config.task[0].name!r}: prompt 0 raised {_described(task, error)}"
        report.find("task", "fail", text, "correct the task, or rollout.task.options")
        raise _Over from error
    if not 1 <= len(str(prompt.prompt_id).encode(errors="replace")) <= _LONGEST_ID:
        text = f"prompt_id = {_shown(str(prompt.prompt_id))}: expected 1 to {_LONGEST_ID} bytes"
        report.find("task", "fail", text, "give each question a short name of its own")
    wrong = next((one for one in [*ids, *stops] if one >= tokenizer.vocab_size), None)
    if not ids or wrong is not None:
        what = "has no token" if not ids else f"has token id {wrong}, the model's vocabulary is {tokenizer.vocab_size}"
        report.find("task", "fail", f"prompt {prompt.prompt_id!r} {what}", "use the model's own tokenizer.json")
        raise _Over
    more = ", ..." if len(ids) > _SHOWN_IDS else ""
    shown = ", ".join(map(str, ids[:_SHOWN_IDS])) + more
    said = prompt.text or " / ".join(str(turn.get("content")) for turn in prompt.messages)
    text = f"{task.name}: prompt {_shown(prompt.prompt_id)} is {_shown(said)}, {len(ids)} ids: [{shown}]"
    report.find("task", "ok", text)
    return prompt


def _measure(task: Task, tokenizer: Tokenizer, asked: DryRun, report: FindingWriter) -> None:
    """Measures the first prompts, for ``measure_s`` seconds at most."""
    lengths, names, until, index = [], set(), time.monotonic() + asked.measure_s, 0
    held_out = 0
    try:
        for index in range(min(asked.prompts, task.size or asked.prompts)):
            prompt = task.prompt(index)
            names.add(prompt.prompt_id)
            held_out += is_held_out(prompt.prompt_id, asked.config.task[0].held_out)
            lengths.append(len(prompt_ids(prompt, tokenizer, asked.config.task[0])))
            if time.monotonic() > until:
                break
    except Exception as error:
        text = f"task.name = {asked.config.task[0].name!r}: prompt {index} raised {_described(task, error)}"
        report.find("task", "fail", text, "correct the task, or its data")
        raise _Over from error
    most = asked.longest
    report.write(
        lengths={
            "size": task.size,
            "prompts": len(lengths),
            "distinct": len(names),
            "held_out": held_out,
            "shortest": min(lengths),
            "median": int(statistics.median(lengths)),
            "longest": max(lengths),
            "too_long": sum(length > most for length in lengths) if most is not None else 0,
        }
    )


async def _score(task: Task, tokenizer: Tokenizer, prompt: Prompt, config: WorkerConfig, report: FindingWriter) -> None:
    """Scores a right answer, if the task knows one, and an empty one, as the worker scores what an engine returns."""
    rewards: dict[str, float] = {}
    try:
        solution = task.solution(prompt)
        responses = {"an empty response": ""}
        if solution is not None:  # through the tokenizer: what a reward function sees is decoded text
            responses["a right answer"] = tokenizer.text(tokenizer.response_ids(solution))
        for what, response in responses.items():
            rewards[what] = (await judge_once(task, prompt, JudgedResponse(response, 1, "stop"), _spec(config))).reward
    except RewardError as error:
        fix = "correct the reward; a response that cannot be scored is not trained"
        report.find("reward", "fail", str(error), fix)
    except Exception as error:  # noqa: BLE001 - the user's code
        text = f"task.name = {config.task[0].name!r}: solution() raised {_described(task, error)}"
        report.find("reward", "fail", text, "correct the task; without solution() there is no warm start")
    report.write(rewards=rewards)


def _described(task: Task | None, error: Exception) -> str:
    return describe(task, error) if task is not None else f"{type(error).__name__}: {error}"


def _shown(text: str) -> str:
    """The start of a text, in quotes, with every character that a terminal does not print escaped."""
    return repr(text[:_SHOWN_CHARACTERS]) + ("..." if len(text) > _SHOWN_CHARACTERS else "")


if __name__ == "__main__":
    main()
