"""Writes supervised examples from a task's own solutions, for warm starts."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.config import TaskConfig, WorkerConfig
from rollout.data.chat_message import canonical
from rollout.data.prompt_ids import prompt_ids
from rollout.data.task_shares import TaskShares
from rollout.data.tokenizer import Tokenizer
from rollout.tasks import Prompt, Task, TaskError, load_task
from rollout.tasks.held_out import is_held_out

_MOST_HELD_OUT = 100_000  # endless prompts in a row


def write_demonstrations(config: WorkerConfig, count: int, seed: int, out: Path) -> None:
    """Writes ``count`` lines {"prompt": [ids], "response": [ids], "generated": [[start, end], ...]}.

    ``generated`` are the ranges of the response that the model is to learn; what is between them is context. Each of them
    ends with an end token.

    In a mixture, every task has the share of the lines that its weight says. Prompts that are held out for evaluation are
    left out here too.

    Args:
        config: names the tasks and the model whose tokenizer is used.
        count: number of lines.
        seed: the run's; the prompts differ from those of a worker with the same seed.
        out: JSON lines file; replaced atomically.

    Raises:
        TaskError: a task knows no solutions, its conversations cannot be continued by the model's chat template, or all its
            prompts are held out.
    """
    # A worker with the same seed must not be asked what the model was shown.
    tasks = [load_task(asked.name, -1 - seed, asked.options) for asked in config.task]
    prompts = [_trained(task, asked) for task, asked in zip(tasks, config.task, strict=True)]
    shares = TaskShares(None, {asked.label: asked.weight for asked in config.task})
    tokenizer = Tokenizer(config.model)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for _ in range(count):
            number = shares.draw()
            row = _row(tasks[number], next(prompts[number]), tokenizer, config.task[number], config.model)
            file.write(json.dumps(row) + "\n")
    os.replace(temporary, out)


def _trained(task: Task, asked: TaskConfig) -> Iterator[Prompt]:
    """Yields the prompts of a task that are not held out."""
    passed_over = 0
    for index in itertools.count():
        prompt = task.prompt(index)
        if not is_held_out(prompt.prompt_id, asked.held_out):
            passed_over = 0
            yield prompt
            continue
        passed_over += 1
        if passed_over >= (task.size or _MOST_HELD_OUT):
            raise TaskError(
                f"task.name = {asked.name!r}: {passed_over} prompts in a row are held out: task.held_out = "
                f"{asked.held_out:g}: lower it"
            )


def _row(task: Task, prompt: Prompt, tokenizer: Tokenizer, asked: TaskConfig, model: Path) -> dict[str, Any]:
    conversation = task.conversation(prompt)
    if conversation is not None:
        return _of_conversation(conversation, task.tools, tokenizer, asked, model)
    solution = task.solution(prompt)
    if solution is None:
        raise TaskError(f"task.name = {asked.name!r}: knows no solutions; remove [learner.warmup]")
    response = tokenizer.response_ids(solution)
    ids = prompt_ids(prompt, tokenizer, asked)
    return {"prompt": ids, "response": response, "generated": [[0, len(response)]]}


def _of_conversation(
    conversation: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    asked: TaskConfig,
    model: Path,
) -> dict[str, Any]:
    """Cuts a conversation where the assistant's messages begin and end, and tokenizes each piece, as an episode would."""
    messages, ends = canonical(conversation), tokenizer.eos_ids
    prompt: list[int] = []
    response: list[int] = []
    generated: list[list[int]] = []
    written = ""
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.chat_template.render(messages[:number], tools, asked.template)
        context = tokenizer.rendered_ids(_after(written, before, asked, model))
        whole = tokenizer.chat_template.render(messages[: number + 1], tools, asked.template, prompt=False)
        answer = tokenizer.rendered_ids(_after(before, whole, asked, model))
        last = max((index for index, token in enumerate(answer) if token in ends), default=len(answer) - 1)
        if generated:
            response += context
        else:
            prompt = context
        generated.append([len(response), len(response) + last + 1])
        response += answer[: last + 1]
        written = before + tokenizer.part(answer[: last + 1])
    return {"prompt": prompt, "response": response, "generated": generated}


def _after(beginning: str, whole: str, asked: TaskConfig, model: Path) -> str:
    if not whole.startswith(beginning):
        raise TaskError(
            f"task.name = {asked.name!r}: the chat template of {model} renders earlier turns anew, so that a "
            "conversation is no single sequence; remove [learner.warmup], or use another template"
        )
    return whole[len(beginning) :]
