"""Turns prompts into groups: short responses in one request for all, others each for itself, or each as an episode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from leeway.v1 import rollout_pb2
from rollout.client import new_group_id
from rollout.config import TaskConfig, WorkerConfig
from rollout.data.prompt_ids import prompt_ids
from rollout.data.tokenizer import Tokenizer
from rollout.engine.errors import EngineError, NotFiniteError
from rollout.engine.pool import EnginePool
from rollout.engine.response import Response
from rollout.engine.sampling import Sampling
from rollout.environments.pool import EnvironmentPool
from rollout.episodes.errors import ChatRequestError
from rollout.episodes.record import SegmentRecord
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.episode_player import EpisodePlayer
from rollout.generation.generated import Generated, MadeGroup
from rollout.generation.group import make_group
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.response_judge import ResponseJudge
from rollout.generation.response_slots import ResponseSlots
from rollout.generation.withdrawal import Withdrawal, cut_off, too_few
from rollout.tasks import Prompt, TaskError


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
    """Makes the groups of one task's prompts. It needs nothing of a worker but what it is given here.

    Args:
        config: of it, ``sampling`` and ``engine.batch_tokens`` are used.
        task: settings of the task.
        engines: generate.
        environments: the task's; they judge responses of one turn.
        player: plays the task's episodes; None: each response is one turn.
        tokenizer: the model's, one for all tasks.

    Attributes:
        batches: whether the responses to several prompts can be made by one request, and are complete together.
        plays: whether each response is an episode.

    Raises:
        TokenizerError: a stop of the task is not one token.
    """

    def __init__(
        self,
        config: WorkerConfig,
        task: TaskConfig,
        engines: EnginePool,
        environments: EnvironmentPool,
        player: EpisodePlayer | None,
        tokenizer: Tokenizer,
    ) -> None:
        self._config = config
        self._task = task
        self._engines = engines
        self._environments = environments
        self._player = player
        self._tokenizer = tokenizer
        self._sampling = sampling_of(config, tokenizer, environments.task.stop)
        self._judge = ResponseJudge(environments, tokenizer, self._sampling.stop_ids)
        self.batches = player is None and config.sampling.max_new_tokens <= config.engine.batch_tokens
        self.plays = player is not None

    async def generate(self, asked: Sequence[AskedPrompt], slots: ResponseSlots | None = None) -> Generated:
        """Generates and scores the groups of some prompts of the task.

        Args:
            asked: the prompts.
            slots: responses are made one by one, and each gives back the slot that the caller has begun for it; None: by one
                request for all where ``batches`` says so.

        Raises:
            EngineError: no engine could answer; see ``EnginePool.generate``.
            TaskError: a prompt cannot be read.
        """
        prompts = [one.prompt for one in asked]
        ids = [self._prompt_ids(prompt) for prompt in prompts]
        begun = time.time_ns()
        if self.batches and slots is None:
            answers = await self._batch(ids)
            answered = time.time_ns()
            made = await asyncio.gather(*map(self._judged, prompts, ids, answers))
        else:
            ended = _nothing if slots is None else slots.end
            made = await asyncio.gather(
                *(self._one_by_one(prompt, own, ended) for prompt, own in zip(prompts, ids, strict=True))
            )
            answered = time.time_ns()
        groups = [
            MadeGroup(one, own, outcomes, self._group(one.prompt, own, outcomes))
            for one, own, outcomes in zip(asked, ids, made, strict=True)
        ]
        return Generated(groups, begun, answered, time.time_ns())

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        try:
            return prompt_ids(prompt, self._tokenizer, self._task)
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
            return [_cut(ids, response, withdrawal) for response in responses]
        return await self._judge.judge(prompt, ids, responses)

    async def _one_by_one(self, prompt: Prompt, ids: Sequence[int], ended: Callable[[], None]) -> list[ResponseOutcome]:
        """Makes the responses to one prompt, each for itself. Raises NotFiniteError once all have ended."""
        affinity, count = new_group_id(), self._config.sampling.responses
        if self._environments.task.judges_groups and self._player is None:
            answers = await asyncio.gather(
                *(self._response(ids, affinity, ended) for _ in range(count)), return_exceptions=True
            )
            return await self._judged(prompt, ids, _without_errors(answers))
        made = await asyncio.gather(
            *(self._outcome(prompt, ids, affinity, ended) for _ in range(count)), return_exceptions=True
        )
        return _without_errors(made)

    async def _outcome(
        self, prompt: Prompt, ids: Sequence[int], affinity: str, ended: Callable[[], None]
    ) -> ResponseOutcome:
        if self._player is None:
            (outcome,) = await self._judged(prompt, ids, [await self._response(ids, affinity, ended)])
            return outcome
        try:
            return await self._player.play(prompt, ids, affinity)
        finally:
            ended()

    async def _response(self, ids: Sequence[int], affinity: str, ended: Callable[[], None]) -> Response:
        try:
            return await self._engines.generate_one(ids, self._sampling, affinity)
        except NotFiniteError:
            raise
        except EngineError as error:
            return Response([], "abort", [], message=str(error))
        finally:
            ended()

    def _group(
        self, prompt: Prompt, ids: Sequence[int], outcomes: Sequence[ResponseOutcome]
    ) -> rollout_pb2.Group | Withdrawal:
        if self._refuses_cut() and (withdrawal := cut_off([one.finish for one in outcomes])) is not None:
            return withdrawal
        if (withdrawal := too_few(outcomes)) is not None:
            return withdrawal
        return make_group(self._task.label, prompt.prompt_id, ids, outcomes, self._sampling)

    def _refuses_cut(self) -> bool:
        return self._config.sampling.truncated == "withdraw"


def _cut(prompt: Sequence[int], response: Response, withdrawal: Withdrawal) -> ResponseOutcome:
    """Returns a response that is not judged, as its group is withdrawn; its tokens are counted, and shown to people."""
    first = SegmentRecord(list(prompt), list(response.tokens), list(response.spans), "first", routed=response.routed)
    finish = response.finish if response.finish in ("stop", "length") else "abort"
    return ResponseOutcome([first] if response.spans else [], finish, None, "other", withdrawal.message)


def _without_errors(made: Sequence[ResponseOutcome | Response | BaseException]) -> list:
    """Returns what was made. Raises the first error among it, if there is one."""
    for one in made:
        if isinstance(one, BaseException):
            raise one
    return list(made)


def _nothing() -> None:
    """Ends a response for whose slot nobody asks."""
