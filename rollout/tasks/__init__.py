"""Tasks: what is asked and how responses are scored; built-in ones, and a loader for others."""

from __future__ import annotations

import importlib
from typing import Any

from rollout.tasks.base import Prompt, Reward, Task, TaskError

__all__ = ["BUILT_IN", "Prompt", "Reward", "Task", "TaskError", "load_task", "make_task"]

BUILT_IN = {
    "sort": "rollout.tasks.sort:Sort",
    "add": "rollout.tasks.add:Add",
    "sumto": "rollout.tasks.sumto:SumTo",
    "gsm8k": "rollout.tasks.gsm8k:Gsm8k",
}


def load_task(name: str, seed: int, options: dict[str, Any]) -> Task:
    """Creates a task from a built-in name or ``module:Class`` and loads its data, so that it can ask and score.

    Raises:
        TaskError: there is no such task, it is no subclass of Task, it does not accept the options, or its data cannot be
            used.
    """
    task = make_task(name, seed, options)
    try:
        task.load()
    except (TypeError, ValueError, LookupError, OSError) as error:
        raise TaskError(
            f"task.options = {options!r}: {name} cannot load its data: {type(error).__name__}: {error}"
        ) from error
    if task.size is not None and task.size < 1:
        raise TaskError(
            f"task.options = {options!r}: {name} has size = {task.size}: at least 1 prompt, or None for endless"
        )
    return task


def make_task(name: str, seed: int, options: dict[str, Any]) -> Task:
    """Creates a task that can score responses, and not ask: its data is not loaded.

    Raises:
        TaskError: there is no such task, it is no subclass of Task, or it does not accept the options.
    """
    module_name, separator, class_name = BUILT_IN.get(name, name).partition(":")
    if not separator:
        raise TaskError(f"task.name = {name!r}: not one of {', '.join(BUILT_IN)}, and not module:Class")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise TaskError(f"task.name = {name!r}: cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise TaskError(f"task.name = {name!r}: {class_name} is not a subclass of rollout.tasks.Task")
    try:
        task = cls(seed=seed, **options)
    except (TypeError, ValueError, LookupError, OSError) as error:
        raise TaskError(
            f"task.options = {options!r}: {name} does not take them: {type(error).__name__}: {error}"
        ) from error
    task.name = task.name or class_name.lower()
    return task
