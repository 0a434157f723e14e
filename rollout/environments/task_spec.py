"""The specification of a task, from its settings."""

from __future__ import annotations

from pathlib import Path

from rollout.config import TaskConfig
from rollout.environments.loading import TaskSpec


def spec_of(config: TaskConfig, seed: int, state: Path | None = None) -> TaskSpec:
    """Returns what a task is made from.

    Args:
        config: settings of the task.
        seed: the worker's.
        state: beginning of the paths of files that rewards keep; None: they keep none.
    """
    return TaskSpec(
        name=config.name,
        seed=seed,
        options=config.options,
        prompts=config.prompts,
        command=tuple(config.command),
        remote=config.remote,
        rewards=tuple(part.model_dump() for part in config.reward),
        limit_s=config.reward_timeout_s,
        state="" if state is None else str(state.absolute()),
    )
