"""The judgement of one response outside a worker: of a dry run, or of a look at a task."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

from rollout.environments.description import describe_task
from rollout.environments.host_process import HostProcess, HostSettings
from rollout.environments.loading import TaskSpec
from rollout.environments.reward_pool import RewardPool
from rollout.tasks import Prompt, Task
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError, describe, explain
from rollout.tasks.score import Score, as_score


async def judge_once(task: Task, prompt: Prompt, response: JudgedResponse, spec: TaskSpec) -> Score:
    """Judges a response; a slow task in a process of its own, others here.

    Args:
        task: the task, loaded.
        prompt: one of its prompts.
        response: what is judged.
        spec: what the task was made from.

    Raises:
        RewardError: it cannot be judged.
    """
    if task.slow:
        host = HostProcess(HostSettings(spec, load=False), Path(os.devnull))
        try:
            rewards = RewardPool(describe_task(task), [host], spec.limit_s)
            (outcome,) = await rewards.score(prompt, [response])
        finally:
            await host.kill("it has judged")
        if isinstance(outcome, RewardError):
            raise outcome
        return outcome
    try:
        together = describe_task(task).judges_groups
        reward = task.group_rewards(prompt, [response.text]) if together else task.judge(prompt, response)
        reward = await reward if inspect.isawaitable(reward) else reward
        return as_score(next(iter(reward)) if together else reward)  # type: ignore[call-overload]
    except Exception as error:
        what = f"reward failed: {describe(task, error)}"
        raise RewardError("reward_error", explain(task.name, what, prompt.prompt_id, response.text)) from error
