"""The rollout worker: lease -> prompts -> generate -> score -> submit, while it follows the published versions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from leeway.v1 import rollout_pb2
from rollout.client import LeaseKeeper, SubmitClient
from rollout.config import WorkerConfig
from rollout.engine.errors import EngineError, NotFiniteError
from rollout.engine.pool import EnginePool
from rollout.engine.refitter import Refitter
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import Generated
from rollout.generation.generator import GroupGenerator
from rollout.generation.group import drop_records
from rollout.generation.lease_use import LeaseUse
from rollout.generation.production_guard import ProductionGuard
from rollout.generation.prompt_supply import PromptSupply
from rollout.generation.response_slots import ResponseSlots, any_free
from rollout.generation.withdrawal import Withdrawal
from rollout.telemetry.tracing import WorkerTracing
from rollout.telemetry.worker_log import WorkerLog
from rollout.versions.verifier import Verifier, Version
from runtime.errors import LeewayError

_PROGRESS_S = 1.0
_MOST_RETURNED = 1000  # leases in one request: the gateway refuses more
_AROUND_GROUP = 1024  # bytes of a message besides its group, and of what tracing adds to the group
_GOODBYE_S = 5.0  # to give leases back in


class RunFinished(Exception):
    """The run has made all its steps: there is nothing left to do."""


class WorkerError(LeewayError):
    """The worker cannot go on; the message says why."""


@dataclass(frozen=True)
class WorkerDependencies:
    """The objects a worker uses; each is tested by itself. Generators are one for each task, in the order of the settings."""

    client: SubmitClient
    pool: EnginePool
    generators: Sequence[GroupGenerator]
    prompts: PromptSupply
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
        self._finished: list[AskedPrompt] = []  # acknowledged, not yet written to the cursor files
        self._guard = ProductionGuard()
        self._generators = dependencies.generators
        answers = ResponseSlots(self._pool.lanes.most)
        self._slots = [
            ResponseSlots(partial(self._most_episodes, task.episodes)) if generator.plays else answers
            for task, generator in zip(config.task, self._generators, strict=True)
        ]

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
            if not all(generator.batches for generator in self._generators):
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
            use = LeaseUse(lease.lease_id, lease.groups)
            asked = await self._prompts.take(lease.groups)
            # A request is of one task: what ends a response may differ.
            made = [
                tasks.create_task(self._make(tasks, [one for one in asked if one.task == task], use))
                for task in dict.fromkeys(one.task for one in asked)
            ]
            await asyncio.wait(made)

    async def _produce_each(self, tasks: asyncio.TaskGroup) -> None:
        """Begins groups as engines have room for their responses; each is submitted when its own responses are done."""
        responses = self._config.sampling.responses
        while True:
            await self._pool.ready()
            free = await any_free(self._slots)
            lease = await self._lease(max(1, free // responses))
            use = LeaseUse(lease.lease_id, lease.groups)
            for one in await self._prompts.take(lease.groups):
                slots = self._slots[one.task]
                await slots.free()
                slots.begin(responses)
                tasks.create_task(self._make(tasks, [one], use, slots))

    def _most_episodes(self, wanted: int) -> int:
        """How many responses of a task may be under way that are episodes, which also wait for other things than engines."""
        return 0 if self._pool.lanes.waiting else wanted

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

    async def _make(
        self, tasks: asyncio.TaskGroup, asked: Sequence[AskedPrompt], use: LeaseUse, slots: ResponseSlots | None = None
    ) -> None:
        """Makes the groups of some prompts, all of one task, and submits them."""
        try:
            made = await self._generators[asked[0].task].generate(asked, slots)
        except EngineError as error:
            self._skip(asked, use, error)
            return
        self._prompts.learn(made.groups)
        self._worker_log.generated(made)
        self._tracing.generated(made.submitted, made.begun, made.answered, made.scored)
        self._settle(tasks, use, made)

    def _settle(self, tasks: asyncio.TaskGroup, use: LeaseUse, made: Generated) -> None:
        """Submits the groups of one request; of those withdrawn, ends the prompts and gives back the capacity.

        Raises:
            WorkerError: so many groups came to nothing that going on would be pointless.
        """
        withdrawn: list[AskedPrompt] = []
        for one in made.groups:
            if isinstance(one.group, Withdrawal):
                withdrawn.append(one.asked)
                self._withdraw(one.asked, one.group)
            else:
                tasks.create_task(self._submit(one.asked, one.group, use))
        self._require(self._guard.note([one.group for one in made.groups]))
        if withdrawn:
            self._prompts.done(withdrawn)
            self._end(use, used=False, groups=len(withdrawn))

    def _withdraw(self, asked: AskedPrompt, withdrawal: Withdrawal) -> None:
        self._worker_log.withdrawn(withdrawal.reason)
        log = structlog.get_logger()
        report = log.info if withdrawal.reason == "truncated" else log.error
        report("group withdrawn", reason=withdrawal.reason, **self._named(asked), error=withdrawal.message)

    def _named(self, asked: AskedPrompt) -> dict[str, str | int]:
        return {"task": self._config.task[asked.task].label, "prompt": asked.index}

    def _end(self, use: LeaseUse, *, used: bool, groups: int = 1) -> None:
        """Keeps a lease until the groups that use it have arrived, and gives back what is left of it."""
        if use.end(used=used, groups=groups):
            self._lease_keeper.release(use.lease_id)
            if use.unused:
                self._returned_leases.append(use.lease_id)

    async def _submit(self, asked: AskedPrompt, group: rollout_pb2.Group, use: LeaseUse) -> None:
        """Delivers a group.

        One that is too large with its records of experts goes without them: were it rejected, the policy would be trained
        on short responses alone.
        """
        routing = self._pool.routing
        if routing is not None and group.ByteSize() + _AROUND_GROUP > self._config.max_message_bytes:
            routing.dropped(drop_records(group))
        ack = await self._client.submit(group, use.lease_id)
        self._end(use, used=ack.outcome == rollout_pb2.OUTCOME_ACCEPTED)
        if ack.outcome == rollout_pb2.OUTCOME_RETRY:  # the run has finished; one with more steps asks the prompt again
            return
        self._finish(asked)
        self._worker_log.acknowledged(ack)
        self._tracing.acknowledged(ack)
        if ack.outcome == rollout_pb2.OUTCOME_REJECTED:
            structlog.get_logger().error(
                "group rejected", group=ack.group_id, reason=ack.reason, field=ack.field, value=ack.value
            )

    def _finish(self, asked: AskedPrompt) -> None:
        """Marks a prompt as done. Acks come in batches: those that arrive together share one file write."""
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._write_cursor)
        self._finished.append(asked)

    def _write_cursor(self) -> None:
        finished, self._finished = self._finished, []
        self._prompts.done(finished)

    def _skip(self, asked: Sequence[AskedPrompt], use: LeaseUse, error: Exception) -> None:
        """Marks prompts that the engines cannot answer as done: handed out again, they would fail for ever."""
        structlog.get_logger().error("prompts skipped", prompts=list(map(self._named, asked)), error=str(error))
        self._prompts.done(asked)
        if isinstance(error, NotFiniteError):
            self._worker_log.withdrawn("nan", len(asked))
        else:
            self._worker_log.skipped(len(asked))
        self._end(use, used=False, groups=len(asked))
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
