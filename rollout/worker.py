"""The rollout worker: lease -> prompts -> generate -> score -> submit, while it follows the published versions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from leeway.v1 import rollout_pb2
from rollout.client import LeaseKeeper, SubmitClient
from rollout.config import WorkerConfig
from rollout.data.prompt_cursor import PromptSource
from rollout.data.tokenizer import Tokenizer
from rollout.engine.errors import EngineError, NotFiniteError
from rollout.engine.pool import EnginePool
from rollout.engine.refitter import Refitter
from rollout.generation.generator import GroupGenerator
from rollout.generation.withdrawal import ScoringHealth, Withdrawal
from rollout.tasks import Task
from rollout.tasks.scoring import RewardPool
from rollout.telemetry.tracing import WorkerTracing
from rollout.telemetry.worker_log import WorkerLog
from rollout.versions.verifier import Verifier, Version
from runtime.errors import LeewayError

_PROGRESS_S = 1.0
_MOST_RETURNED = 1000  # leases in one request: the gateway refuses more
_FRUITLESS = 10  # requests in a row that no engine could answer, after which the worker ends
_TOO_LONG = 1000  # prompts in a row without room for a response, after which it ends: data may be sorted by length
_UNANSWERED = ("aborted", "refused")
_GOODBYE_S = 5.0  # to give leases back in


class RunFinished(Exception):
    """The run has made all its steps: there is nothing left to do."""


class WorkerError(LeewayError):
    """The worker cannot go on; the message says why."""


@dataclass(frozen=True)
class WorkerDependencies:
    """The objects a worker uses; each is tested by itself."""

    client: SubmitClient
    pool: EnginePool
    task: Task
    reward_pool: RewardPool
    tokenizer: Tokenizer
    prompts: PromptSource
    verifier: Verifier
    worker_log: WorkerLog
    tracing: WorkerTracing = field(default_factory=WorkerTracing)


class Worker:
    """Generates and submits groups until cancelled, or until the run has finished.

    Cancelling drops work that is not acknowledged: its prompts are handed out again at the next start.
    """

    def __init__(self, config: WorkerConfig, dependencies: WorkerDependencies) -> None:
        self._config = config
        self._client = dependencies.client
        self._pool = dependencies.pool
        self._prompts = dependencies.prompts
        self._worker_log = dependencies.worker_log
        self._tracing = dependencies.tracing
        self._returned_leases: list[str] = []
        self._lease_keeper = LeaseKeeper(self._client, self._pool.running_version, self._worker_log.leases_lost)
        self._refitter = Refitter(
            dependencies.verifier.verify,
            self._load,
            lambda version: self._client.report_fetching(version, self._pool.running_version()),
            self._worker_log,
        )
        self._finished: list[int] = []  # acknowledged, not yet written to the cursor file
        self._fruitless = 0
        self._too_long = 0
        self._scoring = ScoringHealth()
        self._generator = GroupGenerator(
            config.sampling, self._pool, dependencies.task, dependencies.reward_pool, dependencies.tokenizer
        )

    async def run(self) -> None:
        """Runs the engines, the version watch and the request slots. Returns when the run has finished.

        Raises:
            ExceptionGroup: of AuthError, PortInUseError, SettingsError, TaskError or WorkerError: a person has to act.
        """
        try:
            await self._run()
        except* RunFinished:
            structlog.get_logger().info("the run has finished")
            await self._say_goodbye()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pool.run())
            group.create_task(self._lease_keeper.run())
            group.create_task(self._watch())
            group.create_task(self._refitter.run())
            group.create_task(self._report())
            engines = len(self._config.engine.urls) or self._config.engine.count
            for _ in range(self._config.requests * engines):
                group.create_task(self._produce(group))

    async def _produce(self, tasks: asyncio.TaskGroup) -> None:
        """Makes one request after the other. Acks are awaited in other tasks: engines never wait for the network."""
        while True:
            await self._pool.ready()
            lease = await self._lease()
            self._lease_keeper.hold(lease)
            indices = self._prompts.take(lease.groups)
            try:
                groups = await self._generate(indices)
            except EngineError as error:
                self._skip(indices, lease.lease_id, error)
                continue
            self._settle(tasks, lease.lease_id, groups)

    async def _lease(self) -> rollout_pb2.LeaseResponse:
        """Waits for a lease of at least one group."""
        while True:
            returned, self._returned_leases = (
                self._returned_leases[:_MOST_RETURNED],
                self._returned_leases[_MOST_RETURNED:],
            )
            lease = await self._client.lease(self._config.groups_per_request, self._pool.running_version(), returned)
            if lease.groups:
                return lease
            pause = max(lease.retry_after_ms, 10) / 1000
            self._worker_log.waited(pause)
            await asyncio.sleep(pause)

    async def _generate(self, indices: Sequence[int]) -> dict[int, rollout_pb2.Group | Withdrawal]:
        made = await self._generator.generate(indices)
        groups = [group for group in made.groups.values() if isinstance(group, rollout_pb2.Group)]
        self._worker_log.truncated(made.truncated)
        self._worker_log.generated(groups, made.samples)
        self._tracing.generated(groups, made.begun, made.answered, made.scored)
        return made.groups

    def _settle(
        self, tasks: asyncio.TaskGroup, lease_id: str, groups: Mapping[int, rollout_pb2.Group | Withdrawal]
    ) -> None:
        """Submits the groups of one request; of those withdrawn, ends the prompts and gives back the capacity.

        Raises:
            WorkerError: so many groups came to nothing that going on would be pointless.
        """
        submissions = [
            tasks.create_task(self._submit(index, group, lease_id))
            for index, group in groups.items()
            if isinstance(group, rollout_pb2.Group)
        ]
        withdrawn = {index: group for index, group in groups.items() if isinstance(group, Withdrawal)}
        for index, withdrawal in withdrawn.items():
            self._withdraw(index, withdrawal)
        if (problem := self._scoring.note(groups.values())) is not None:
            raise WorkerError(problem)
        if withdrawn:
            self._prompts.done(withdrawn)
        tasks.create_task(self._end_lease(lease_id, submissions, bool(withdrawn)))
        self._require_fruit(withdrawn, len(groups))

    def _require_fruit(self, withdrawn: Mapping[int, Withdrawal], groups: int) -> None:
        """Counts requests that no group came of. Raises WorkerError when there were too many in a row."""
        too_long = [withdrawal.message for withdrawal in withdrawn.values() if withdrawal.reason == "too_long"]
        unanswered = [withdrawal.message for withdrawal in withdrawn.values() if withdrawal.reason in _UNANSWERED]
        self._too_long = self._too_long + groups if len(too_long) == groups else 0
        if self._too_long >= _TOO_LONG:
            raise WorkerError(f"{self._too_long} prompts in a row are too long; the last: {too_long[-1]}")
        if unanswered and len(unanswered) + len(too_long) == groups:
            self._count_fruitless(unanswered[-1])
        elif len(too_long) < groups:
            self._fruitless = 0

    def _withdraw(self, index: int, withdrawal: Withdrawal) -> None:
        self._worker_log.withdrawn(withdrawal.reason)
        log = structlog.get_logger()
        report = log.info if withdrawal.reason == "truncated" else log.error
        report("group withdrawn", reason=withdrawal.reason, prompt=index, error=withdrawal.message)

    async def _end_lease(self, lease_id: str, submissions: Sequence[asyncio.Task[bool]], unused: bool) -> None:
        """Keeps a lease until the groups that use it have arrived, and gives back what is left of it."""
        used = await asyncio.gather(*submissions, return_exceptions=True)  # the task group has the exceptions too
        self._lease_keeper.release(lease_id)
        if unused or not all(one is True for one in used):
            self._returned_leases.append(lease_id)

    async def _submit(self, index: int, group: rollout_pb2.Group, lease_id: str) -> bool:
        """Delivers a group. Returns whether it has used its lease."""
        ack = await self._client.submit(group, lease_id)
        if (
            ack.outcome == rollout_pb2.OUTCOME_RETRY
        ):  # the run has finished; a run with more steps asks the prompt again
            return False
        self._finish(index)
        self._worker_log.acknowledged(ack)
        self._tracing.acknowledged(ack)
        if ack.outcome == rollout_pb2.OUTCOME_REJECTED:
            structlog.get_logger().error(
                "group rejected", group=ack.group_id, reason=ack.reason, field=ack.field, value=ack.value
            )
        return ack.outcome == rollout_pb2.OUTCOME_ACCEPTED

    def _finish(self, index: int) -> None:
        """Marks a prompt as done. Acks come in batches: those that arrive together share one file write."""
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._write_cursor)
        self._finished.append(index)

    def _write_cursor(self) -> None:
        finished, self._finished = self._finished, []
        self._prompts.done(finished)

    def _skip(self, indices: Sequence[int], lease_id: str, error: Exception) -> None:
        """Marks prompts that the engines cannot answer as done: handed out again, they would fail for ever."""
        structlog.get_logger().error("prompts skipped", prompts=list(indices), error=str(error))
        self._prompts.done(indices)
        if isinstance(error, NotFiniteError):
            self._worker_log.withdrawn("nan", len(indices))
        else:
            self._worker_log.skipped(len(indices))
        self._lease_keeper.release(lease_id)
        self._returned_leases.append(lease_id)
        self._count_fruitless(str(error))

    def _count_fruitless(self, error: str) -> None:
        self._fruitless += 1
        if self._fruitless == _FRUITLESS:
            raise WorkerError(f"no engine could answer {_FRUITLESS} requests in a row; the last: {error}")

    async def _watch(self) -> None:
        async for policy in self._client.watch_policy():
            self._refitter.announce(policy)
        raise RunFinished

    async def _say_goodbye(self) -> None:
        """Gives back the leases whose groups will not be made. Without an answer they expire by themselves."""
        leases = [*self._returned_leases, *self._lease_keeper.held][:_MOST_RETURNED]
        if leases:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await self._client.lease(1, None, leases)

    async def _load(self, policy: rollout_pb2.Policy, version: Version) -> None:
        self._tracing.announced(policy)
        await self._pool.load(version)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            self._worker_log.progress(self._pool.running_version(), self._pool.serving(), self._pool.clock)
