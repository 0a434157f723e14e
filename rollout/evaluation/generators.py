"""Opens what makes the responses of one evaluation: the task's environments and, where agents answer, an endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from rollout.config import TaskConfig
from rollout.config.evaluation import EvaluationSampling, EvaluatorConfig, evaluation_name
from rollout.data.tokenizer import Tokenizer
from rollout.engine.pool import EnginePool
from rollout.environments.pool import EnvironmentPool
from rollout.evaluation.prompt_set import prompt_set, require_same_prompts
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generator import GroupGenerator
from rollout.opened_player import opened_player
from rollout.telemetry.endpoint_metrics import EndpointMetrics
from rollout.telemetry.episode_metrics import EpisodeMetrics


@dataclass(frozen=True)
class Observers:
    """Objects that count what happens in episodes and at the endpoint."""

    episodes: EpisodeMetrics
    endpoint: EndpointMetrics


class Generators:
    """Opens generators of an evaluator, one at a time.

    Args:
        config: of the evaluator.
        tokenizer: the model's.
        observers: count episodes.

    Attributes:
        tokenizer: the model's.
    """

    def __init__(self, config: EvaluatorConfig, tokenizer: Tokenizer, observers: Observers) -> None:
        self._config = config
        self._observers = observers
        self.tokenizer = tokenizer

    @contextlib.asynccontextmanager
    async def open(
        self, pool: EnginePool, task: TaskConfig, sampling: EvaluationSampling
    ) -> AsyncIterator[tuple[GroupGenerator, list[AskedPrompt]]]:
        """Opens a task, and yields what makes its groups and the prompts that are evaluated.

        Args:
            pool: the evaluator's engine.
            task: what is asked.
            sampling: how responses are drawn.

        Raises:
            TaskError, TokenizerError, PromptSetError: the task cannot be used.
        """
        config, name = self._config, evaluation_name(task)
        worker = config.worker(task, sampling)
        logs = config.log_dir / f"{config.name}.environment.{name.replace('/', '_')}"
        async with contextlib.AsyncExitStack() as stack:
            opened = EnvironmentPool.open(task, config.seed, logs, config.environments.socket)
            environments = await stack.enter_async_context(opened)
            asked = await prompt_set(environments.prompts, environments.task.size, task, config.prompts)
            kept = config.state_dir / f"{config.name}.prompts.{name.replace('/', '_')}.json"
            require_same_prompts(kept, [one.prompt.prompt_id for one in asked])
            player = None
            if environments.task.plays:
                player = await stack.enter_async_context(
                    opened_player(worker, task, environments, pool, self.tokenizer, self._observers)
                )
            yield GroupGenerator(worker, task, pool, environments, player, self.tokenizer), asked
