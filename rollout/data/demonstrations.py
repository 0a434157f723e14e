"""Writes supervised examples from a task's own solutions, for warm starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rollout.config import WorkerConfig
from rollout.data.tokenizer import Tokenizer
from rollout.tasks import TaskError, load_task


def write_demonstrations(config: WorkerConfig, count: int, seed: int, out: Path) -> None:
    """Writes ``count`` lines {"prompt": [ids], "response": [ids]}; each response ends with the end token.

    Args:
        config: names the task and the model whose tokenizer is used.
        count: number of lines.
        seed: the run's; the prompts differ from those of a worker with the same seed.
        out: JSON lines file; replaced atomically.

    Raises:
        TaskError: the task knows no solutions.
    """
    # A worker with the same seed must not be asked what the model was shown.
    task = load_task(config.task.name, -1 - seed, config.task.options)
    tokenizer = Tokenizer(config.model, config.task.prompt_format)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for index in range(count):
            prompt = task.prompt(index)
            solution = task.solution(prompt)
            if solution is None:
                raise TaskError(f"task.name = {config.task.name!r}: knows no solutions; remove [learner.warmup]")
            row = {"prompt": tokenizer.prompt_ids(prompt.text), "response": tokenizer.response_ids(solution)}
            file.write(json.dumps(row) + "\n")
    os.replace(temporary, out)
