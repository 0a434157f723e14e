"""The rollout worker: lease -> prompts -> generate -> score -> submit, while it follows the published versions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from leeway.v1 import rollout_pb2
from rollout.client import LeaseKeeper, SubmitClient
from rollout.config import WorkerConfig
from rollout.data.prompt_cursor import PromptSource
from rollout.engine.errors import EngineError, NotFiniteError
from rollout.engine.pool import EnginePool
from rollout.engine.refitter import Refitter
from rollout.generation.generator import Generated, GroupGenerator
from rollout.generation.lease_use import LeaseUse
from rollout.generation.production_guard import ProductionGuard
from rollout.generation.withdrawal import Withdrawal
from rollout.telemetry.tracing import WorkerTracing
from rollout.telemetry.worker_log import WorkerLog
from rollout.versions.verifier import Verifier, Version
from runtime.errors import LeewayError

_PROGRESS_S = 1.0
_MOST_RETURNED = 1000  # leases in one request: the gateway refuses more
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
    generator: GroupGenerator
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
        self._guard = ProductionGuard()
        self._generator = dependencies.generator

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
            if not self._generator.batches:
                group.create_task(self._produce_each(group))
                return
            engines = len(self._config.engine.urls) or self._config.engine.count
            for _ in range(self._config.requests * engines):
                group.create_task(self._produce_batches(group))

    async def _produce_batches(self, tasks: asyncio.TaskGroup) -> None:
        """Makes one request after the other. Acks are awaited in other tasks: engines never wait for the network."""
        while True:
            await self._pool.ready()
            lease = await self._lease(self._config.groups_per_request)
            await self._make(tasks, self._prompts.take(lease.groups), LeaseUse(lease.lease_id, lease.groups))

    async def _produce_each(self, tasks: asyncio.TaskGroup) -> None:
        """Begins groups as engines have room for their responses; each is submitted when its own responses are done."""
        responses = self._config.sampling.responses
        while True:
            await self._pool.ready()
            free = await self._generator.slots.free()
            lease = await self._lease(max(1, free // responses))
            use = LeaseUse(lease.lease_id, lease.groups)
            self._generator.slots.begin(lease.groups * responses)
            for index in self._prompts.take(lease.groups):
                tasks.create_task(self._make(tasks, [index], use))

    async def _lease(self, groups: int) -> rollout_pb2.LeaseResponse:
        """Waits for a lease of at least one group, at most ``groups``, and keeps it."""
        while True:
            returned, self._returned_leases = (
                self._returned_leases[:_MOST_RETURNED],
                self._returned_leases[_MOST_RETURNED:],
            )
            lease = await self._client.lease(groups, self._pool.running_version(), returned)
            if lease.groups:
                self._lease_keeper.hold(lease)
                return lease
            pause = max(lease.retry_after_ms, 10) / 1000
            self._worker_log.waited(pause)
            await asyncio.sleep(pause)

    async def _make(self, tasks: asyncio.TaskGroup, indices: Sequence[int], use: LeaseUse) -> None:
        """Makes the groups of some prompts and submits them."""
        try:
            made = await self._generator.generate(indices)
        except EngineError as error:
            self._skip(indices, use, error)
            return
        groups = [group for group in made.groups.values() if isinstance(group, rollout_pb2.Group)]
        self._worker_log.truncated(made.truncated)
        self._worker_log.generated(groups, made.samples)
        self._tracing.generated(groups, made.begun, made.answered, made.scored)
        self._settle(tasks, use, made)

    def _settle(self, tasks: asyncio.TaskGroup, use: LeaseUse, made: Generated) -> None:
        """Submits the groups of one request; of those withdrawn, ends the prompts and gives back the capacity.

        Raises:
            WorkerError: so many groups came to nothing that going on would be pointless.
        """
        withdrawn = {index: group for index, group in made.groups.items() if isinstance(group, Withdrawal)}
        for index, group in made.groups.items():
            if isinstance(group, rollout_pb2.Group):
                tasks.create_task(self._submit(index, group, use))
            else:
                self._withdraw(index, group)
        self._require(self._guard.note(made.groups))
        if withdrawn:
            self._prompts.done(withdrawn)
            self._end(use, used=False, groups=len(withdrawn))

    def _withdraw(self, index: int, withdrawal: Withdrawal) -> None:
        self._worker_log.withdrawn(withdrawal.reason)
        log = structlog.get_logger()
        report = log.info if withdrawal.reason == "truncated" else log.error
        report("group withdrawn", reason=withdrawal.reason, prompt=index, error=withdrawal.message)

    def _end(self, use: LeaseUse, *, used: bool, groups: int = 1) -> None:
        """Keeps a lease until the groups that use it have arrived, and gives back what is left of it."""
        if use.end(used=used, groups=groups):
            self._lease_keeper.release(use.lease_id)
            if use.unused:
                self._returned_leases.append(use.lease_id)

    async def _submit(self, index: int, group: rollout_pb2.Group, use: LeaseUse) -> None:
        """Delivers a group."""
        ack = await self._client.submit(group, use.lease_id)
        self._end(use, used=ack.outcome == rollout_pb2.OUTCOME_ACCEPTED)
        if ack.outcome == rollout_pb2.OUTCOME_RETRY:  # the run has finished; one with more steps asks the prompt again
            return
        self._finish(index)
        self._worker_log.acknowledged(ack)
        self._tracing.acknowledged(ack)
        if ack.outcome == rollout_pb2.OUTCOME_REJECTED:
            structlog.get_logger().error(
                "group rejected", group=ack.group_id, reason=ack.reason, field=ack.field, value=ack.value
            )

    def _finish(self, index: int) -> None:
        """Marks a prompt as done. Acks come in batches: those that arrive together share one file write."""
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._write_cursor)
        self._finished.append(index)

    def _write_cursor(self) -> None:
        finished, self._finished = self._finished, []
        self._prompts.done(finished)

    def _skip(self, indices: Sequence[int], use: LeaseUse, error: Exception) -> None:
        """Marks prompts that the engines cannot answer as done: handed out again, they would fail for ever."""
        structlog.get_logger().error("prompts skipped", prompts=list(indices), error=str(error))
        self._prompts.done(indices)
        if isinstance(error, NotFiniteError):
            self._worker_log.withdrawn("nan", len(indices))
        else:
            self._worker_log.skipped(len(indices))
        self._end(use, used=False, groups=len(indices))
        self._require(self._guard.failed(str(error)))

    def _require(self, problem: str | None) -> None:
        if problem is not None:
            raise WorkerError(problem)

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
                    await self._client.give_back(leases)

    async def _load(self, policy: rollout_pb2.Policy, version: Version) -> None:
        self._tracing.announced(policy)
        await self._pool.load(version)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            self._worker_log.progress(self._pool.running_version(), self._pool.serving(), self._pool.clock)
