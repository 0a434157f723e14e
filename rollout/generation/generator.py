"""Turns prompts into groups: short responses in one request for all, others each for itself, or each as an episode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from leeway.v1 import rollout_pb2
from rollout.client import new_group_id
from rollout.config import WorkerConfig
from rollout.data.prompt_ids import prompt_ids
from rollout.data.tokenizer import Tokenizer
from rollout.engine.errors import EngineError, NotFiniteError
from rollout.engine.pool import EnginePool
from rollout.engine.response import Response
from rollout.engine.sampling import Sampling
from rollout.environments.pool import EnvironmentPool
from rollout.episodes.errors import ChatRequestError
from rollout.generation.episode_player import EpisodePlayer
from rollout.generation.group import make_group
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.response_judge import ResponseJudge
from rollout.generation.response_slots import ResponseSlots
from rollout.generation.withdrawal import Withdrawal, cut_off, too_few
from rollout.tasks import Prompt, TaskError


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
        samples: the first scored response of each group.
        truncated: number of responses that the length limit cut off, withdrawn ones included.
        begun, answered, scored: when the request was sent, answered, and its responses were scored, in Unix nanoseconds.
    """

    groups: dict[int, rollout_pb2.Group | Withdrawal]
    samples: list[Sample]
    truncated: int
    begun: int
    answered: int
    scored: int


def sampling_of(config: WorkerConfig, tokenizer: Tokenizer, stop: Sequence[str]) -> Sampling:
    """Returns how a worker draws tokens.

    Args:
        config: the worker's settings.
        tokenizer: the model's.
        stop: texts, each one token, that end a response of the task.

    Raises:
        TokenizerError: a stop of the task is not one token.
    """
    wanted = config.sampling
    ends = (*tokenizer.eos_ids, *(tokenizer.single_id(text) for text in stop))
    return Sampling(wanted.temperature, wanted.max_new_tokens, ends, wanted.top_p, wanted.top_k, wanted.min_p)


class GroupGenerator:
    """Makes the groups of prompts.

    Args:
        config: how responses are made.
        engines: generate.
        environments: ask, and judge responses of one turn.
        player: plays episodes; None: each response is one turn.
        tokenizer: the model's.

    Attributes:
        batches: whether the responses to several prompts are made by one request, and are complete together.
        slots: responses under way that are made one by one. Whoever calls ``generate`` then begins them there.

    Raises:
        TokenizerError: a stop of the task is not one token.
    """

    def __init__(
        self,
        config: WorkerConfig,
        engines: EnginePool,
        environments: EnvironmentPool,
        player: EpisodePlayer | None,
        tokenizer: Tokenizer,
    ) -> None:
        self._config = config
        self._engines = engines
        self._environments = environments
        self._player = player
        self._tokenizer = tokenizer
        self._sampling = sampling_of(config, tokenizer, environments.task.stop)
        self._judge = ResponseJudge(environments, tokenizer, self._sampling.stop_ids)
        self.batches = player is None and config.sampling.max_new_tokens <= config.engine.batch_tokens
        self.slots = ResponseSlots(self._most)

    async def generate(self, indices: Sequence[int]) -> Generated:
        """Generates and scores the groups of some prompts.

        Raises:
            EngineError: no engine could answer; see ``EnginePool.generate``.
            TaskError: the task did not make a prompt, or one that cannot be read.
        """
        prompts = await self._environments.prompts(indices)
        ids = [self._prompt_ids(prompt) for prompt in prompts]
        begun = time.time_ns()
        if self.batches:
            answers = await self._batch(ids)
            answered = time.time_ns()
            made = await asyncio.gather(*map(self._judged, prompts, ids, answers))
        else:
            made = await asyncio.gather(*map(self._one_by_one, prompts, ids))
            answered = time.time_ns()
        groups = {
            index: self._group(prompt, known, outcomes)
            for index, prompt, known, outcomes in zip(indices, prompts, ids, made, strict=True)
        }
        samples = [_sample(prompt, outcomes) for prompt, outcomes in zip(prompts, made, strict=True)]
        return Generated(
            groups=groups,
            samples=[sample for sample in samples if sample is not None],
            truncated=sum(outcome.finish == "length" for outcomes in made for outcome in outcomes),
            begun=begun,
            answered=answered,
            scored=time.time_ns(),
        )

    def _most(self) -> int:
        """How many responses may be under way: what the engines take; of episodes, which also wait for other things, more."""
        if self._player is None:
            return self._engines.lanes.most()
        return 0 if self._engines.lanes.waiting else self._config.task.episodes

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        try:
            return prompt_ids(prompt, self._tokenizer, self._config.task)
        except ChatRequestError as error:
            raise TaskError(
                f"task.name = {self._environments.task.name!r}: prompt {prompt.prompt_id!r}: {error}"
            ) from error

    async def _batch(self, ids: Sequence[Sequence[int]]) -> list[list[Response]]:
        count = self._config.sampling.responses
        responses = await self._engines.generate([row for row in ids for _ in range(count)], self._sampling)
        return [responses[start : start + count] for start in range(0, len(responses), count)]

    async def _judged(self, prompt: Prompt, ids: Sequence[int], responses: Sequence[Response]) -> list[ResponseOutcome]:
        if self._refuses_cut() and (withdrawal := cut_off([one.finish for one in responses])) is not None:
            return [_cut(response, withdrawal) for response in responses]
        return await self._judge.judge(prompt, ids, responses)

    async def _one_by_one(self, prompt: Prompt, ids: Sequence[int]) -> list[ResponseOutcome]:
        """Makes the responses to one prompt, each for itself. Raises NotFiniteError once all have ended."""
        affinity, count = new_group_id(), self._config.sampling.responses
        make = self._answer if self._player is None else self._episode
        if self._environments.task.judges_groups and self._player is None:
            answers = await asyncio.gather(
                *(self._response(ids, affinity) for _ in range(count)), return_exceptions=True
            )
            return await self._judged(prompt, ids, _without_errors(answers))
        made = await asyncio.gather(*(make(prompt, ids, affinity) for _ in range(count)), return_exceptions=True)
        return _without_errors(made)

    async def _answer(self, prompt: Prompt, ids: Sequence[int], affinity: str) -> ResponseOutcome:
        (outcome,) = await self._judged(prompt, ids, [await self._response(ids, affinity)])
        return outcome

    async def _response(self, ids: Sequence[int], affinity: str) -> Response:
        try:
            return await self._engines.generate_one(ids, self._sampling, affinity)
        except NotFiniteError:
            raise
        except EngineError as error:
            return Response([], "abort", [], message=str(error))
        finally:
            self.slots.end()

    async def _episode(self, prompt: Prompt, ids: Sequence[int], affinity: str) -> ResponseOutcome:
        assert self._player is not None
        try:
            return await self._player.play(prompt, ids, affinity)
        finally:
            self.slots.end()

    def _group(
        self, prompt: Prompt, ids: Sequence[int], outcomes: Sequence[ResponseOutcome]
    ) -> rollout_pb2.Group | Withdrawal:
        if self._refuses_cut() and (withdrawal := cut_off([one.finish for one in outcomes])) is not None:
            return withdrawal
        if (withdrawal := too_few(outcomes)) is not None:
            return withdrawal
        return make_group(self._environments.task.name, prompt.prompt_id, ids, outcomes, self._sampling)

    def _refuses_cut(self) -> bool:
        return self._config.sampling.truncated == "withdraw"


def _cut(response: Response, withdrawal: Withdrawal) -> ResponseOutcome:
    finish = response.finish if response.finish in ("stop", "length") else "abort"
    return ResponseOutcome([], finish, None, "other", withdrawal.message)


def _without_errors(made: Sequence[ResponseOutcome | Response | BaseException]) -> list:
    """Returns what was made. Raises the first error among it, if there is one."""
    for one in made:
        if isinstance(one, BaseException):
            raise one
    return list(made)


def _sample(prompt: Prompt, outcomes: Sequence[ResponseOutcome]) -> Sample | None:
    text = prompt.text or "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in prompt.messages)
    scored = next((outcome for outcome in outcomes if outcome.score is not None), None)
    if scored is None or scored.score is None:
        return None
    # The transcript of an episode begins with its prompt, which is shown already.
    return Sample(text, scored.text.removeprefix(f"{text}\n"), scored.score.reward)
