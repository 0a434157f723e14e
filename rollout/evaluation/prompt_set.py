"""The prompts that are evaluated: the first ones of a task, held-out ones only where it has some, the same every time."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from rollout.config import TaskConfig
from rollout.generation.asked_prompt import AskedPrompt
from rollout.tasks import Prompt
from rollout.tasks.held_out import is_held_out
from runtime.errors import MISCONFIGURED, LeewayError

_AT_ONCE = 256  # prompts that a task is asked for at a time
_MOST_LOOKED_AT = 1_000_000  # prompts of an endless task
_SHOWN = 3  # ids in a message


class PromptSetError(LeewayError):
    """Prompts that cannot be evaluated, or are not those of before. The message says what to do."""

    exit_status = MISCONFIGURED


async def prompt_set(
    prompts: Callable[[Sequence[int]], Awaitable[Sequence[Prompt]]], size: int | None, task: TaskConfig, wanted: int
) -> list[AskedPrompt]:
    """Returns the first prompts of a task that are for evaluation, by index, each once; fewer where there are not as many.

    Args:
        prompts: makes the prompts of some indices.
        size: number of prompts of one pass over the task's data; None: endless.
        task: its settings; with held_out > 0 only held-out prompts are taken.
        wanted: how many, at least 1.

    Raises:
        PromptSetError: there is none.
    """
    found: dict[str, AskedPrompt] = {}
    last = _MOST_LOOKED_AT if size is None else size
    for start in range(0, last, _AT_ONCE):
        indices = range(start, min(start + _AT_ONCE, last))
        for index, prompt in zip(indices, await prompts(indices), strict=True):
            if not task.held_out or is_held_out(prompt.prompt_id, task.held_out):
                found.setdefault(prompt.prompt_id, AskedPrompt(0, index, prompt))
            if len(found) == wanted:
                return list(found.values())
    if not found:
        raise PromptSetError(
            f"task {task.label or task.name!r}: none of its {last} prompts is held out with held_out = {task.held_out}; "
            "raise it, or evaluate a split of its own with held_out = 0"
        )
    return list(found.values())


def require_same_prompts(path: Path, prompt_ids: Sequence[str]) -> None:
    """Compares the ids of the prompts with those of the last time; the first time, writes them.

    Args:
        path: where the ids are kept.
        prompt_ids: in order.

    Raises:
        PromptSetError: they are others: results would not compare with the earlier ones.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(list(prompt_ids)))
        os.replace(temporary, path)
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise PromptSetError(
            f"{path}: damaged ({error}); delete it to begin with the prompts that there are now"
        ) from error
    if before != list(prompt_ids):
        new, gone = [one for one in prompt_ids if one not in before], [one for one in before if one not in prompt_ids]
        raise PromptSetError(
            f"{path}: other prompts were evaluated before ({len(before)} then, {len(prompt_ids)} now; new: {new[:_SHOWN]}, "
            f"no longer there: {gone[:_SHOWN]}): results would not compare. Restore data, seed and eval.prompts, give the "
            "task another label, or delete the file to begin anew"
        )
