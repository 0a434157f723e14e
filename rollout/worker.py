"""The rollout worker: lease -> prompts -> generate -> reward -> submit, while it follows the published versions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from leeway.v1 import rollout_pb2
from rollout.client.client import SubmitClient
from rollout.config import WorkerConfig
from rollout.data.group import make_group
from rollout.data.prompt_cursor import PromptSource
from rollout.data.tokenizer import Tokenizer
from rollout.engine.pool import EnginePool
from rollout.engine.sglang import EngineError, RefusedError, Sampling
from rollout.tasks import Task
from rollout.tasks.scoring import RewardPool
from rollout.telemetry.tracing import WorkerTracing
from rollout.telemetry.worker_log import Sample, WorkerLog
from rollout.versions.verifier import Verifier, VersionError
from runtime.errors import LeewayError

_PROGRESS_S = 1.0
_FRUITLESS = 10  # requests in a row that come to nothing: then something is wrong for good


class WorkerError(LeewayError):
    """The worker cannot go on; the message says why."""


@dataclass(frozen=True)
class WorkerDependencies:
    """What a worker is made of; each is tested by itself."""

    client: SubmitClient
    fleet: EnginePool
    task: Task
    judges: RewardPool
    tokenizer: Tokenizer
    prompts: PromptSource
    verifier: Verifier
    journal: WorkerLog
    tracing: WorkerTracing = field(default_factory=WorkerTracing)


class Worker:
    """Runs until cancelled. Unacknowledged work is simply dropped then: its prompts are handed out again next time."""

    def __init__(self, config: WorkerConfig, parts: WorkerDependencies) -> None:
        self._config = config
        self._parts = parts
        self._returned_leases: list[str] = []
        self._newest: asyncio.Queue[rollout_pb2.Policy] = asyncio.Queue()
        self._finished: list[int] = []  # acknowledged, not yet in the cursor's file
        self._fruitless = 0
        stops = tuple(parts.tokenizer.single_id(stop) for stop in parts.task.stop)
        self._stop_ids = (*parts.tokenizer.eos_ids, *stops)
        self._sampling = Sampling(config.sampling.temperature, config.sampling.max_new_tokens, self._stop_ids)

    async def run(self) -> None:
        """Never returns.

        Raises:
            AuthError, PortInUseError, TaskError, WorkerError: nothing can be done without a person (in an ExceptionGroup).
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._parts.fleet.run())
            group.create_task(self._watch())
            group.create_task(self._adopt())
            group.create_task(self._report())
            engines = len(self._config.engine.urls) or self._config.engine.count
            for _ in range(self._config.requests * engines):
                group.create_task(self._produce(group))

    async def _produce(self, tasks: asyncio.TaskGroup) -> None:
        """One request after the other. The acks are awaited apart, so that engines never wait for the network."""
        while True:
            await self._parts.fleet.ready()
            lease = await self._lease()
            indices = self._parts.prompts.take(lease.groups)
            try:
                groups = await self._generate(indices)
            except (RefusedError, EngineError) as error:
                self._skip(indices, lease.lease_id, error)
                continue
            self._fruitless = 0
            for index, group in zip(indices, groups, strict=True):
                tasks.create_task(self._submit(index, group, lease.lease_id))

    async def _lease(self) -> rollout_pb2.LeaseResponse:
        """Leave to generate at least one group; waits for it."""
        while True:
            returned, self._returned_leases = self._returned_leases, []
            lease = await self._parts.client.lease(
                self._config.groups_per_request, self._parts.fleet.running_version(), returned
            )
            if lease.groups:
                return lease
            pause = max(lease.retry_after_ms, 10) / 1000
            self._parts.journal.waited(pause)
            await asyncio.sleep(pause)

    async def _generate(self, indices: Sequence[int]) -> list[rollout_pb2.Group]:
        """The groups of these prompts: one engine request, every prompt repeated once per response."""
        task, tokenizer, count = self._parts.task, self._parts.tokenizer, self._config.sampling.responses
        prompts = [task.prompt(index) for index in indices]
        ids = [tokenizer.prompt_ids(prompt.text) for prompt in prompts]
        begun = time.time_ns()
        responses = await self._parts.fleet.generate([row for row in ids for _ in range(count)], self._sampling)
        answered = time.time_ns()
        answers = [responses[start : start + count] for start in range(0, len(responses), count)]
        texts = [[tokenizer.text(response.tokens, self._stop_ids) for response in answer] for answer in answers]
        judged = await asyncio.gather(*map(self._parts.judges.score, indices, prompts, texts))
        judged_at = time.time_ns()
        groups = [
            make_group(task.name, prompt, row, list(zip(answer, scores, strict=True)), self._sampling.temperature)
            for prompt, row, answer, scores in zip(prompts, ids, answers, judged, strict=True)
        ]
        first = [
            Sample(prompt.text, text[0], scores[0].reward)
            for prompt, text, scores in zip(prompts, texts, judged, strict=True)
        ]
        self._parts.journal.generated(groups, first)
        self._parts.tracing.generated(groups, begun, answered, judged_at)
        return groups

    async def _submit(self, index: int, group: rollout_pb2.Group, lease_id: str) -> None:
        ack = await self._parts.client.submit(group, lease_id)
        self._finish(index)
        self._parts.journal.acknowledged(ack)
        self._parts.tracing.acknowledged(ack)
        if ack.outcome == rollout_pb2.OUTCOME_REJECTED:
            structlog.get_logger().error(
                "group rejected", group=ack.group_id, reason=ack.reason, field=ack.field, value=ack.value
            )

    def _finish(self, index: int) -> None:
        """Marks a prompt as done. Acks come in batches: one file write for all that arrive together."""
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._write_cursor)
        self._finished.append(index)

    def _write_cursor(self) -> None:
        finished, self._finished = self._finished, []
        self._parts.prompts.done(finished)

    def _skip(self, indices: Sequence[int], lease_id: str, error: Exception) -> None:
        """Prompts that the engines cannot answer are done with, else they would come back for ever."""
        structlog.get_logger().error("prompts skipped", prompts=list(indices), error=str(error))
        self._parts.prompts.done(indices)
        self._parts.journal.skipped(len(indices))
        self._returned_leases.append(lease_id)
        self._fruitless += 1
        if self._fruitless == _FRUITLESS:
            raise WorkerError(f"{_FRUITLESS} requests in a row came to nothing; the last: {error}")

    async def _watch(self) -> None:
        async for policy in self._parts.client.watch_policy():
            self._newest.put_nowait(policy)

    async def _adopt(self) -> None:
        """Verifies the newest version and hands it to the engines; a damaged one is reported and the next awaited."""
        while True:
            policy = await self._newest.get()
            while not self._newest.empty():
                policy = self._newest.get_nowait()
            try:
                version = await asyncio.to_thread(self._parts.verifier.verify, policy)
            except VersionError as error:
                structlog.get_logger().error(
                    "version refused", version=policy.version, field=error.field, value=error.value
                )
                self._parts.journal.refused(policy.version, error)
                continue
            self._parts.tracing.announced(policy)
            await self._parts.fleet.load(version)

    async def _report(self) -> None:
        fleet = self._parts.fleet
        while True:
            await asyncio.sleep(_PROGRESS_S)
            self._parts.journal.progress(fleet.running_version(), fleet.serving(), fleet.clock)
