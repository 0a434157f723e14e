"""A look at tasks for people: prompts as the model reads them, their token ids, and what responses are worth."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rollout.config import TaskConfig, WorkerConfig
from rollout.data.demo_model import write_model
from rollout.data.prompt_ids import prompt_ids
from rollout.data.tokenizer import Tokenizer
from rollout.environments.description import describe_task
from rollout.environments.loading import load
from rollout.environments.one_judgement import judge_once
from rollout.environments.task_spec import spec_of
from rollout.tasks import Prompt, Task
from rollout.tasks.held_out import is_held_out
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError
from runtime.errors import LeewayError

_SHOWN_IDS = 64


class TaskPreview:
    """Writes what tasks ask and how they judge.

    Args:
        config: of a worker: its tasks, seed and model.
        write: called with each line of text.

    Attributes:
        failed: how many responses could not be judged, and prompts not written in token ids.
    """

    def __init__(self, config: WorkerConfig, write: Callable[[str], None]) -> None:
        self._config = config
        self._write = write
        self.failed = 0

    def show(self, count: int, responses: Sequence[str] = ()) -> None:
        """Writes the first prompts of every task, each with the rewards of a right answer and of the given responses.

        Args:
            count: prompts of each task.
            responses: texts that are judged as if the model had answered them.

        Raises:
            LeewayError: a task cannot be loaded, or the model's tokenizer cannot be read.
        """
        tokenizer = Tokenizer(self._config.model)
        for task_config in self._config.task:
            if task_config.python is not None:
                self._write(f"task {task_config.label}: runs in {task_config.python}; it cannot be tried here")
                continue
            spec = spec_of(task_config, self._config.seed)
            task = load(spec)
            of = "endless" if task.size is None else f"{task.size} prompts"
            self._write(f"task {task_config.label}: {of}{', judged in a process of its own' if task.slow else ''}")
            for index in range(count if task.size is None else min(count, task.size)):
                self._show_prompt(index, task, task_config, tokenizer, responses)

    def _show_prompt(
        self, index: int, task: Task, config: TaskConfig, tokenizer: Tokenizer, responses: Sequence[str]
    ) -> None:
        prompt = task.prompt(index)
        held_out = ", held out for evaluation" if is_held_out(prompt.prompt_id, config.held_out) else ""
        self._write(f"\nprompt {index}, id {prompt.prompt_id!r}{held_out}")
        for line in _said(prompt):
            self._write(f"  {line}")
        try:
            ids = prompt_ids(prompt, tokenizer, config)
        except LeewayError as error:
            self.failed += 1
            self._write(f"  token ids: none: {error}")
        else:
            more = ", ..." if len(ids) > _SHOWN_IDS else ""
            self._write(f"  {len(ids)} token ids: [{', '.join(map(str, ids[:_SHOWN_IDS]))}{more}]")
        if describe_task(task).plays:
            self._write("  reward: an agent or an environment plays episodes with the policy; none is played here")
            return
        solution = task.solution(prompt)
        asked = [("a right answer", solution)] if solution is not None else []
        for what, text in [*asked, *(("the response", text) for text in responses)]:
            self._write(f"  reward of {what} {text!r}: {self._reward(task, prompt, text, tokenizer, config)}")

    def _reward(self, task: Task, prompt: Prompt, text: str, tokenizer: Tokenizer, config: TaskConfig) -> str:
        try:
            response = JudgedResponse(text, len(tokenizer.response_ids(text)), "stop")
        except LeewayError:
            response = JudgedResponse(text, None, "stop")  # a text that this model cannot write
        try:
            score = asyncio.run(judge_once(task, prompt, response, spec_of(config, self._config.seed)))
        except RewardError as error:
            self.failed += 1
            return f"none: {error}"
        parts = ", ".join(f"{name} {value:g}" for name, value in score.parts.items())
        return f"{score.reward:g}" + (f" ({parts})" if parts else "")


def show_tasks(config: WorkerConfig, demo_model: str, count: int, responses: Sequence[str]) -> int:
    """Shows tasks on standard output.

    Args:
        config: of a worker.
        demo_model: use this demo's model, made for the moment; empty: the one at ``config.model``.
        count: prompts of each task.
        responses: texts that are judged.

    Returns:
        How much of it failed; 0: nothing.

    Raises:
        LeewayError: a task cannot be loaded, or the model's tokenizer cannot be read.
    """
    with tempfile.TemporaryDirectory() as directory:
        if demo_model:
            write_model(Path(directory) / "demo", config.seed, tools=demo_model == "demo-tools")
            config = config.model_copy(update={"model": Path(directory) / "demo"})
        preview = TaskPreview(config, lambda line: print(line, flush=True))  # noqa: T201 - it is what was asked for
        preview.show(count, responses)
        return preview.failed


def _said(prompt: Prompt) -> list[str]:
    """A prompt's text or messages as lines, without what a terminal would obey."""
    said = [("", prompt.text)] if prompt.text else []
    said += [(f"{turn.get('role')}: ", str(turn.get("content"))) for turn in prompt.messages]
    lines = [line for role, text in said for line in f"{role}{text}".split("\n")]
    return ["".join(one if one.isprintable() else repr(one)[1:-1] for one in line) for line in lines]
