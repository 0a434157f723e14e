"""Writes supervised examples from a task's own solutions, for warm starts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.config import WorkerConfig
from rollout.data.chat_message import canonical
from rollout.data.prompt_ids import prompt_ids
from rollout.data.tokenizer import Tokenizer
from rollout.tasks import Prompt, Task, TaskError, load_task


def write_demonstrations(config: WorkerConfig, count: int, seed: int, out: Path) -> None:
    """Writes ``count`` lines {"prompt": [ids], "response": [ids], "generated": [[start, end], ...]}.

    ``generated`` are the ranges of the response that the model is to learn; what is between them is context. Each of them
    ends with an end token.

    Args:
        config: names the task and the model whose tokenizer is used.
        count: number of lines.
        seed: the run's; the prompts differ from those of a worker with the same seed.
        out: JSON lines file; replaced atomically.

    Raises:
        TaskError: the task knows no solutions, or its conversations cannot be continued by the model's chat template.
    """
    # A worker with the same seed must not be asked what the model was shown.
    task = load_task(config.task.name, -1 - seed, config.task.options)
    tokenizer = Tokenizer(config.model, config.task.prompt_format)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for index in range(count):
            file.write(json.dumps(_row(task, task.prompt(index), tokenizer, config)) + "\n")
    os.replace(temporary, out)


def _row(task: Task, prompt: Prompt, tokenizer: Tokenizer, config: WorkerConfig) -> dict[str, Any]:
    conversation = task.conversation(prompt)
    if conversation is not None:
        return _of_conversation(conversation, task.tools, tokenizer, config)
    solution = task.solution(prompt)
    if solution is None:
        raise TaskError(f"task.name = {config.task.name!r}: knows no solutions; remove [learner.warmup]")
    response = tokenizer.response_ids(solution)
    ids = prompt_ids(prompt, tokenizer, config.task)
    return {"prompt": ids, "response": response, "generated": [[0, len(response)]]}


def _of_conversation(
    conversation: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    config: WorkerConfig,
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
        before = tokenizer.chat_template.render(messages[:number], tools, config.task.template)
        context = tokenizer.rendered_ids(_after(written, before, config))
        whole = tokenizer.chat_template.render(messages[: number + 1], tools, config.task.template, prompt=False)
        answer = tokenizer.rendered_ids(_after(before, whole, config))
        last = max((index for index, token in enumerate(answer) if token in ends), default=len(answer) - 1)
        if generated:
            response += context
        else:
            prompt = context
        generated.append([len(response), len(response) + last + 1])
        response += answer[: last + 1]
        written = before + tokenizer.part(answer[: last + 1])
    return {"prompt": prompt, "response": response, "generated": generated}


def _after(beginning: str, whole: str, config: WorkerConfig) -> str:
    if not whole.startswith(beginning):
        raise TaskError(
            f"task.name = {config.task.name!r}: the chat template of {config.model} renders earlier turns anew, so that a "
            "conversation is no single sequence; remove [learner.warmup], or use another template"
        )
    return whole[len(beginning) :]
