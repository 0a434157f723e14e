"""Turns prompts into scored groups: one engine request, every prompt repeated once per response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from leeway.v1 import rollout_pb2
from rollout.config import SamplingConfig
from rollout.data.tokenizer import Tokenizer
from rollout.engine.pool import EnginePool
from rollout.engine.sglang import Response, Sampling
from rollout.generation.group import make_group
from rollout.generation.withdrawal import Withdrawal, unusable
from rollout.tasks import Prompt, Task, TaskError
from rollout.tasks.reward_error import RewardError, describe
from rollout.tasks.scoring import RewardPool


@dataclass(frozen=True)
class Sample:
    """One response as a person reads it."""

    prompt: str
    response: str
    reward: float


@dataclass(frozen=True)
class Generated:
    """The outcome of one request.

    Attributes:
        groups: a group, or why there is none to submit, by the prompt's index.
        samples: the first response of each group.
        truncated: number of responses that the length limit cut off, withdrawn ones included.
        begun, answered, scored: when the request was sent, answered, and its responses were scored, in Unix nanoseconds.
    """

    groups: dict[int, rollout_pb2.Group | Withdrawal]
    samples: list[Sample]
    truncated: int
    begun: int
    answered: int
    scored: int


class GroupGenerator:
    """Makes the groups of prompts.

    Args:
        config: how responses are sampled.
        pool: the engines.
        task: what is asked.
        reward_pool: scores the responses.
        tokenizer: the model's.

    Raises:
        TokenizerError: a stop of the task is not one token.
    """

    def __init__(
        self, config: SamplingConfig, pool: EnginePool, task: Task, reward_pool: RewardPool, tokenizer: Tokenizer
    ) -> None:
        self._config = config
        self._pool = pool
        self._task = task
        self._reward_pool = reward_pool
        self._tokenizer = tokenizer
        self._stop_ids = (*tokenizer.eos_ids, *(tokenizer.single_id(stop) for stop in task.stop))
        self._sampling = Sampling(config.temperature, config.max_new_tokens, self._stop_ids)

    async def generate(self, indices: Sequence[int]) -> Generated:
        """Generates and scores the groups of some prompts.

        Raises:
            EngineError: no engine could answer; see ``EnginePool.generate``.
            TaskError: the task did not make a prompt.
        """
        prompts = [self._prompt(index) for index in indices]
        ids, count = [self._tokenizer.prompt_ids(prompt.text) for prompt in prompts], self._config.responses
        begun = time.time_ns()
        responses = await self._pool.generate([row for row in ids for _ in range(count)], self._sampling)
        answered = time.time_ns()
        answers = [responses[start : start + count] for start in range(0, len(responses), count)]
        made = await asyncio.gather(*map(self._score, prompts, ids, answers))
        return Generated(
            groups={index: group for index, (group, _) in zip(indices, made, strict=True)},
            samples=[sample for _, sample in made if sample is not None],
            truncated=sum(response.finish == "length" for response in responses),
            begun=begun,
            answered=answered,
            scored=time.time_ns(),
        )

    def _prompt(self, index: int) -> Prompt:
        try:
            return self._task.prompt(index)
        except Exception as error:  # the user's code: no worker can go on without prompts
            raise TaskError(
                f"task.name = {self._task.name!r}: prompt({index}) raised {describe(self._task, error)}; a task has a prompt "
                "for every index >= 0, and with finite data it sets size and begins again (see rollout/tasks/base.py)"
            ) from error

    async def _score(
        self, prompt: Prompt, prompt_ids: Sequence[int], responses: Sequence[Response]
    ) -> tuple[rollout_pb2.Group | Withdrawal, Sample | None]:
        """Makes the group of one prompt and a sample of it, unless a response cannot be used or not be scored."""
        if (withdrawal := unusable(responses, self._config.truncated)) is not None:
            return withdrawal, None
        for number, response in enumerate(responses):
            if (token := self._tokenizer.unknown_id(response.tokens, self._ends(response))) is not None:
                return Withdrawal("unknown_token", f"response {number}: the tokenizer has no token {token}"), None
        texts = [self._tokenizer.text(response.tokens, self._ends(response)) for response in responses]
        try:
            scores = await self._reward_pool.score(prompt, texts)
        except RewardError as error:
            return Withdrawal(error.reason, str(error)), None
        scored = list(zip(responses, scores, strict=True))
        group = make_group(self._task.name, prompt, prompt_ids, scored, self._sampling.temperature)
        return group, Sample(prompt.text, texts[0], scores[0].reward)

    def _ends(self, response: Response) -> tuple[int, ...]:
        # The engine may know end tokens that no file names; what it says it stopped at is never part of the answer.
        return self._stop_ids if response.stopped_by is None else (*self._stop_ids, response.stopped_by)
