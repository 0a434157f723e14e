"""Makes the task of a configuration, in the process in which it runs: a built-in one, a user's own, or an agent."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.environments.asked_elsewhere import AskedElsewhere
from rollout.environments.command_agent import CommandAgent
from rollout.environments.function_agent import FunctionAgent
from rollout.environments.prompt_file import PromptFile
from rollout.rewards.registry import BUILT_IN as BUILT_IN_REWARDS
from rollout.rewards.registry import OWN, RewardPart
from rollout.rewards.rewarded_task import RewardedTask
from rollout.tasks import ADAPTERS, BUILT_IN, Task, TaskError, make_task, require_data

_REMOTE = "agent"  # the name of agents that have none


@dataclass(frozen=True)
class TaskSpec:
    """What a task is made from, as JSON can say it.

    Attributes:
        name: ``task.name``.
        seed: the worker's.
        options: ``task.options``.
        prompts: ``task.prompts``.
        command: ``task.command``.
        remote: ``task.remote``.
        rewards: ``task.reward``, each as the fields of a RewardPart; empty: the task judges itself.
        limit_s: ``task.reward_timeout_s``.
        state: beginning of the paths of files that rewards keep; empty: they keep none.
    """

    name: str
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    prompts: str = ""
    command: Sequence[str] = ()
    remote: bool = False
    rewards: Sequence[Mapping[str, Any]] = ()
    limit_s: float = 10.0
    state: str = ""


class RemoteAgent(AskedElsewhere):
    """Prompts for agents elsewhere: nothing of it runs here."""


def make(spec: TaskSpec) -> Task:
    """Creates a task or an agent, with the rewards that it is judged by; its data is not loaded.

    Raises:
        TaskError: there is none of that name, it does not accept the options, an agent has no prompts, or a reward cannot be
            made.
    """
    task = _bare(spec)
    if not spec.rewards:
        return task
    state = Path(spec.state) if spec.state else None
    return RewardedTask(task, [RewardPart(**part) for part in spec.rewards], spec.limit_s, state)


def _bare(spec: TaskSpec) -> Task:
    label = _REMOTE if spec.name in (*BUILT_IN, *ADAPTERS) else spec.name
    if spec.command:
        return CommandAgent(label, spec.command, _asking(spec))
    if spec.remote:
        return RemoteAgent(label, _asking(spec))
    function = _function(spec.name)
    if function is None:
        return make_task(spec.name, spec.seed, spec.options)
    if not spec.prompts:
        raise TaskError(
            f"task.name = {spec.name!r} is a function, an agent: set task.prompts to a built-in task, module:Class, or a "
            ".jsonl file that says what to ask"
        )
    return FunctionAgent(spec.name.partition(":")[2], function, _asking(spec))


def load(spec: TaskSpec) -> Task:
    """Creates a task or an agent and loads its data, so that it can ask.

    Raises:
        TaskError: as ``make``, or the data cannot be used.
    """
    task = make(spec)
    require_data(task, spec.prompts or spec.name, spec.options)
    return task


def runs_user_code(spec: TaskSpec) -> bool:
    """Whether a host of this task runs other code than this package's: a task, an agent, prompts or a reward of a user's."""
    tasks = [spec.prompts] if spec.remote else [spec.name, spec.prompts]
    return (
        bool(spec.command)
        or any(name and name not in BUILT_IN and not name.endswith(".jsonl") for name in tasks)
        or any(part["name"] not in (*BUILT_IN_REWARDS, OWN) for part in spec.rewards)
    )


def _asking(spec: TaskSpec) -> Task:
    if spec.prompts.endswith(".jsonl"):
        return PromptFile(spec.seed, spec.prompts)
    return make_task(spec.prompts, spec.seed, spec.options, setting="task.prompts")


def _function(name: str) -> Any:
    """Returns what ``name`` names, if that is a function; None if it is anything else, or nothing."""
    module_name, separator, member = name.partition(":")
    if not separator:
        return None
    try:
        found = getattr(importlib.import_module(module_name), member)
    except (ImportError, AttributeError) as error:
        raise TaskError(f"task.name = {name!r}: cannot be imported: {error}") from error
    return found if callable(found) and not isinstance(found, type) else None
