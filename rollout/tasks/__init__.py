"""Tasks: what is asked and how responses are scored; built-in ones, and a loader for others."""

from __future__ import annotations

import importlib
from typing import Any

from rollout.tasks.base import Prompt, Reward, Task, TaskError

__all__ = ["ADAPTERS", "BUILT_IN", "Prompt", "Reward", "Task", "TaskError", "load_task", "make_task", "require_data"]

BUILT_IN = {
    "sort": "rollout.tasks.sort:Sort",
    "add": "rollout.tasks.add:Add",
    "sumto": "rollout.tasks.sumto:SumTo",
    "gsm8k": "rollout.tasks.gsm8k:Gsm8k",
    "lookup": "rollout.tasks.lookup:Lookup",
    "dataset": "rollout.tasks.dataset:Dataset",
}

# Tasks of other projects, which need the project's package: they always run in hosts, with the interpreter task.python.
ADAPTERS = {
    "verifiers": "rollout.adapters.verifiers:Verifiers",
    "reasoning-gym": "rollout.adapters.reasoning_gym:ReasoningGym",
    "openenv": "rollout.adapters.openenv:OpenEnv",
}


def load_task(name: str, seed: int, options: dict[str, Any]) -> Task:
    """Creates a task from a built-in name or ``module:Class`` and loads its data, so that it can ask and score.

    Raises:
        TaskError: there is no such task, it is no subclass of Task, it does not accept the options, or its data cannot be
            used.
    """
    task = make_task(name, seed, options)
    require_data(task, name, options)
    return task


def require_data(task: Task, name: str, options: dict[str, Any]) -> None:
    """Loads a task's data.

    Args:
        task: the task.
        name, options: what it was made from, for messages.

    Raises:
        TaskError: the data cannot be used.
    """
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


def make_task(name: str, seed: int, options: dict[str, Any], setting: str = "task.name") -> Task:
    """Creates a task that can score responses, and not ask: its data is not loaded.

    Args:
        name: a built-in name, or module:Class.
        seed: the worker's.
        options: further keyword arguments.
        setting: where the name was read, for messages.

    Raises:
        TaskError: there is no such task, it is no subclass of Task, it cannot judge, or it does not accept the options.
    """
    module_name, separator, class_name = {**BUILT_IN, **ADAPTERS}.get(name, name).partition(":")
    if not separator:
        raise TaskError(f"{setting} = {name!r}: not one of {', '.join((*BUILT_IN, *ADAPTERS))}, and not module:Class")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise TaskError(f"{setting} = {name!r}: cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise TaskError(f"{setting} = {name!r}: {class_name} is not a subclass of rollout.tasks.Task")
    judging = ("reward", "group_rewards", "rollout")
    if setting == "task.name" and all(getattr(cls, method) is getattr(Task, method) for method in judging):
        raise TaskError(f"{setting} = {name!r}: {class_name} defines none of {', '.join(judging)}")
    try:
        task = cls(seed=seed, **options)
    except (TypeError, ValueError, LookupError, OSError) as error:
        raise TaskError(
            f"task.options = {options!r}: {name} does not take them: {type(error).__name__}: {error}"
        ) from error
    task.name = task.name or class_name.lower()
    return task
