"""Environments of the package verifiers, as the task "verifiers": its tasks, its agent's program, its rewards.

The model calls of an episode go through the server that verifiers puts between an agent and its model, and from there to the
worker's endpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rollout.adapters.foreign_package import import_package
from rollout.tasks import Prompt, Reward, Task, TaskError
from rollout.tasks.policy import EpisodePolicy

_REQUIREMENT = "verifiers==0.4.0"
_SHELL = "bash"  # the agent that verifiers takes where an environment brings none: it runs the model's commands
_CHAT = "null"  # its agent that only chats, with the environment's tools

_numbers = itertools.count()


class Verifiers(Task):
    """An environment of one agent, by name.

    Where neither the environment nor ``config`` says otherwise, its agent chats with the environment's tools and without a
    shell, and runs on this machine.

    Args:
        seed: of no use: the order is the environment's, or that of ``select``.
        environment: name of an installed package of verifiers, with or without its owner ("gsm8k-v1", "owner/gsm8k-v1").
        config: settings of the environment, as in a file of verifiers ([env]).
        select: which of its tasks are asked, as in a file of verifiers ([select]): limit, skip, shuffle, seed ...

    Raises:
        TaskError: the package or the environment is not installed, or the environment has several agents.
        ValueError: a setting is not one of verifiers'.
    """

    def __init__(
        self,
        seed: int = 0,
        environment: str = "",
        config: Mapping[str, Any] | None = None,
        select: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(seed)
        if not environment:
            raise TaskError("task.options.environment is missing: the name of an installed environment of verifiers")
        self._library = import_package("verifiers.v1", _REQUIREMENT)
        # It looks for uv, which installs the program of its chat agent, and finds the one of this virtualenv.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        try:
            self._config = _environment_config(self._library, environment, config or {})
        except ImportError as error:
            raise TaskError(f"task.options.environment = {environment!r}: {error}") from error
        self._select = self._library.SelectConfig(**(select or {}))
        self._tasks: list[Any] = []
        self.name = f"verifiers:{environment}"

    def load(self) -> None:
        """Reads the environment's tasks. Raises TaskError where there is no end of them."""
        taskset = self._library.load_environment(self._config).taskset.select(self._select)
        if not taskset.bounded:
            raise TaskError(f"{self.name} has endless tasks: set task.options.select.limit")
        self._tasks = list(taskset)
        self.size = len(self._tasks)

    def prompt(self, index: int) -> Prompt:
        """Returns a task as a prompt; its data is the task's, as JSON can say it."""
        data = self._tasks[index % len(self._tasks)].data
        name, messages = f"{self.name}:{data.idx}", _messages(data)
        # A conversation that a user of the environment opens has no prompt: its name stands for it.
        return Prompt(name, "" if messages else name, data.model_dump(mode="json"), messages)

    async def rollout(self, prompt: Prompt, policy: EpisodePolicy) -> Reward:
        """Plays one episode; returns the environment's weighted rewards by name."""
        # An environment of its own: verifiers keeps a client for each key until its server ends.
        environment = self._library.load_environment(self._config)
        kind = type(environment.taskset).task_type()
        task = kind(kind.data_type().model_validate(prompt.data), self._config.taskset.task)
        with _key_variable(policy.api_key) as variable:
            client = self._library.EvalClientConfig(base_url=policy.base_url, api_key_var=variable)
            async with environment.serving():
                episode = await environment.run_episode(task, self._library.ModelContext(policy.model, client))
        return _reward(episode)

    def fingerprint(self) -> dict[str, Any]:
        """Returns the package's release and a digest of the tasks."""
        tasks = hashlib.sha256("".join(task.hash for task in self._tasks).encode()).hexdigest()
        return {"verifiers": version("verifiers"), "tasks": tasks}


def _environment_config(library: Any, environment: str, config: Mapping[str, Any]) -> Any:
    kind = library.env_config_type(environment, config.get("id", ""))
    agents = {
        name: known.default
        for name, known in kind.model_fields.items()
        if isinstance(known.default, library.AgentConfig)
    }
    if len(agents) != 1:
        raise TaskError(
            f"task.options.environment = {environment!r}: it has the agents {', '.join(agents) or 'none'}; a response is "
            "one agent's: use an environment of one agent"
        )
    [(name, own)] = agents.items()
    defaults: dict[str, Any] = {}
    if "runtime" not in own.model_fields_set:
        defaults["runtime"] = {"type": "subprocess"}
    if own.harness is None and library.default_harness_id(environment) == _SHELL:
        defaults["harness"] = {"id": _CHAT}
    settings = {
        **config,
        "taskset": {**config.get("taskset", {}), "id": environment},
        name: {**defaults, **config.get(name, {})},
    }
    resolved = library.resolve_env_config(settings)
    retries = getattr(resolved, name).retries
    if retries.max_retries or retries.rules:
        raise TaskError(
            f"task.options.config.{name}.retries: an attempt that failed would be trained with the reward of the next one; "
            "remove it: a failed episode is unscored"
        )
    return resolved


def _messages(data: Any) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
    if data.prompt is None:
        return system
    if isinstance(data.prompt, str):
        return [*system, {"role": "user", "content": data.prompt}]
    return [*system, *(message.model_dump(mode="json", exclude_none=True) for message in data.prompt)]


@contextmanager
def _key_variable(key: str) -> Iterator[str]:
    """Puts a key where verifiers looks for it: into an environment variable, whose name is the result."""
    # It keeps variables with API_KEY in their names from the programs that it starts.
    name = f"LEEWAY_EPISODE_{next(_numbers)}_API_KEY"
    os.environ[name] = key
    try:
        yield name
    finally:
        del os.environ[name]


def _reward(episode: Any) -> dict[str, float]:
    """Returns the rewards of an episode. Raises RuntimeError where it failed or has none."""
    errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
    if not episode.ok or len(episode.traces) != 1:
        what = "; ".join(f"{error.type}: {error.message}" for error in errors) or f"{len(episode.traces)} agents ran"
        raise RuntimeError(f"verifiers: the episode failed: {what}")
    rewards = episode.traces[0].rewards
    missing = [name for name, reward in rewards.items() if reward is None]
    if missing or not rewards:
        raise RuntimeError(f"verifiers: the environment gave no reward {', '.join(missing)}".rstrip())
    return {name: reward.value for name, reward in rewards.items()}
