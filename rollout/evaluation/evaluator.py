"""The evaluator: follows the published versions, keeps the one that is due, measures it, and reports what it is worth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from google.protobuf import json_format

from leeway.v1 import rollout_pb2
from rollout.client import SubmitClient
from rollout.config import TaskConfig
from rollout.config.evaluation import EvaluationSampling, EvaluatorConfig, evaluation_name
from rollout.engine.errors import EngineError
from rollout.engine.pool import EnginePool
from rollout.engine.refitter import in_daemon_thread
from rollout.evaluation.evaluator_metrics import EvaluatorMetrics
from rollout.evaluation.generators import Generators
from rollout.evaluation.measurement import EvaluationError, MixedVersionsError, evaluate_prompts
from rollout.evaluation.results import EvaluationResult, ResultFile
from rollout.evaluation.version_choice import VersionChoice
from rollout.versions.manifest import FetchError, VersionError
from rollout.versions.verifier import Version

_KEEP_EVERY_S = 60.0  # a version is kept for ten minutes after the gateway last heard of it
_FETCHES, _FETCH_PAUSE_S = 6, 2.0  # attempts, and the seconds before the second; each next pause is twice as long
_LOADED_EVERY_S = 0.05
_LAST_REPORTS_S = 30.0
_REPORTED_AGAIN = 64  # results of an earlier process, which may not have reached the gateway


@dataclass(frozen=True)
class EvaluatorDependencies:
    """The objects an evaluator uses; each is tested by itself.

    Attributes:
        client: a connection to the gateway.
        verify: fetches and verifies a version; blocks, and raises VersionError.
        open_pool: opens the engine, which then starts.
        generators: make responses.
        results: the run's results.
        metrics: count evaluations.
    """

    client: SubmitClient
    verify: Callable[[rollout_pb2.Policy], Version]
    open_pool: Callable[[], contextlib.AbstractAsyncContextManager[EnginePool]]
    generators: Generators
    results: ResultFile
    metrics: EvaluatorMetrics


class Evaluator:
    """Evaluates the versions of a run until it has finished, and its last version is evaluated."""

    def __init__(self, config: EvaluatorConfig, dependencies: EvaluatorDependencies) -> None:
        self._config = config
        self._client = dependencies.client
        self._verify = dependencies.verify
        self._open_pool = dependencies.open_pool
        self._generators = dependencies.generators
        self._results = dependencies.results
        self._metrics = dependencies.metrics
        self._pending = config.state_dir / f"{config.name}.pending.json"
        complete = {one.version for one in self._results.results if not self._missing(one.version)}
        self._choice = VersionChoice(config, complete, read_pending(self._pending))
        self._changed = asyncio.Event()
        self._kept = asyncio.Event()
        self._unreported: asyncio.Queue[EvaluationResult] = asyncio.Queue()
        for result in self._results.results[-_REPORTED_AGAIN:]:
            self._unreported.put_nowait(result)

    async def run(self) -> None:
        """Runs until the run has finished.

        Raises:
            ExceptionGroup: of AuthError, PortInUseError, SettingsError, TaskError or PromptSetError: a person has to act.
        """
        log = structlog.get_logger()
        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(one) for one in (self._watch(), self._keep(), self._report())]
            try:
                async with asyncio.timeout(None) as limit:
                    ending = group.create_task(self._limit_the_end(limit))
                    await self._evaluate()
                    ending.cancel()
            except TimeoutError:
                log.error("the end of the run is not evaluated", limit_s=self._config.final_timeout_s)
                self._metrics.ended("timeout")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_REPORTS_S):
                    await self._unreported.join()
            for task in serving:
                task.cancel()
        log.info("every evaluation of the run is done", results=len(self._results.results))

    async def _limit_the_end(self, limit: asyncio.Timeout) -> None:
        while not self._choice.finished:
            await self._changes()
        limit.reschedule(asyncio.get_running_loop().time() + self._config.final_timeout_s)

    async def _evaluate(self) -> None:
        """Evaluates what is due, one version after the other, and ends when nothing more can become due."""
        async with contextlib.AsyncExitStack() as stack:
            pool: EnginePool | None = None
            while (policy := await self._due()) is not None:
                if pool is None:
                    pool = await stack.enter_async_context(self._running_pool())
                self._metrics.evaluating(policy.version)
                await self._evaluate_version(pool, policy)
                self._metrics.evaluating(None)
                self._choice.done(policy.version)
                self._keep_pending()

    async def _due(self) -> rollout_pb2.Policy | None:
        while (policy := self._choice.due()) is None:
            if self._choice.finished:
                return None
            await self._changes()
        return policy

    async def _changes(self) -> None:
        changed = self._changed
        await changed.wait()

    @contextlib.asynccontextmanager
    async def _running_pool(self) -> AsyncIterator[EnginePool]:
        async with self._open_pool() as pool, asyncio.TaskGroup() as group:
            running = group.create_task(pool.run())
            yield pool
            running.cancel()

    async def _evaluate_version(self, pool: EnginePool, policy: rollout_pb2.Policy) -> None:
        version = await self._fetched(policy)
        if version is None:
            return
        await pool.load(version)
        for task, sampling in self._missing(policy.version):
            log = structlog.get_logger().bind(
                version=policy.version, evaluation=evaluation_name(task), sampling=sampling.name
            )
            outcome = "failed"
            try:
                async with asyncio.timeout(self._config.timeout_s):
                    result = await self._measured(pool, policy.version, task, sampling)
            except MixedVersionsError as error:
                outcome = "mixed_versions"
                log.error("evaluation thrown away", error=str(error))
            except (EvaluationError, EngineError) as error:
                log.error("evaluation failed", error=str(error))
            except TimeoutError:
                outcome = "timeout"
                log.error("evaluation given up", limit_s=self._config.timeout_s)
            else:
                outcome = "reported"
                self._results.append(result)
                self._unreported.put_nowait(result)
                log.info("evaluated", seconds=result.seconds)
            self._metrics.ended(outcome)

    async def _measured(
        self, pool: EnginePool, version: int, task: TaskConfig, sampling: EvaluationSampling
    ) -> EvaluationResult:
        async with self._generators.open(pool, task, sampling) as (generator, asked):
            await until_loaded(pool, version)
            return await evaluate_prompts(generator, asked, version, self._config, (task, sampling))

    def _missing(self, version: int) -> list[tuple[TaskConfig, EvaluationSampling]]:
        """The evaluations of a version that are not in the file."""
        pairs = [(task, sampling) for task in self._config.task for sampling in self._config.sampling]
        return [
            (task, sampling)
            for task, sampling in pairs
            if not self._results.has(version, evaluation_name(task), sampling.name)
        ]

    async def _fetched(self, policy: rollout_pb2.Policy) -> Version | None:
        """Returns the verified version; None if it is refused or cannot be had."""
        log, pause = structlog.get_logger(), _FETCH_PAUSE_S
        for attempt in range(1, _FETCHES + 1):
            try:
                return await in_daemon_thread(lambda: self._verify(policy))
            except FetchError as error:
                log.warning("version not fetched", version=policy.version, error=str(error), attempt=attempt)
            except VersionError as error:
                log.error("version refused", version=policy.version, field=error.field, value=error.value)
                break
            if attempt < _FETCHES:
                await asyncio.sleep(pause)
                pause *= 2
        self._metrics.ended("not_fetched")
        return None

    async def _watch(self) -> None:
        async for policy in self._client.watch_policy():
            self._choice.announced(policy)
            self._keep_pending()
            self._wake()
        self._choice.end()
        self._keep_pending()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _keep_pending(self) -> None:
        """Writes down which version is chosen, for a process that comes after this one, and has it kept."""
        write_pending(self._pending, self._choice.pending)
        self._kept.set()

    async def _keep(self) -> None:
        """Tells the gateway which version has to stay on disk: at once, and again while it is not evaluated."""
        while True:
            self._kept.clear()
            if (policy := self._choice.pending) is not None:
                await self._client.report_fetching(policy.version, policy.version)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KEEP_EVERY_S):
                    await self._kept.wait()

    async def _report(self) -> None:
        """Reports results, each until a gateway has taken it; evaluations do not wait for that."""
        while True:
            self._metrics.unreported(self._unreported.qsize())
            result = await self._unreported.get()
            try:
                await self._client.report_evaluation(result.message())
            finally:
                self._unreported.task_done()


async def until_loaded(pool: EnginePool, version: int) -> None:
    """Waits until the engine serves a version."""
    while pool.running_version() != version:  # noqa: ASYNC110 - an engine says so to nobody
        await asyncio.sleep(_LOADED_EVERY_S)


def read_pending(path: Path) -> rollout_pb2.Policy | None:
    """Reads which version an earlier process had chosen; None: none, or what is there cannot be read."""
    try:
        return json_format.Parse(path.read_text(), rollout_pb2.Policy(), ignore_unknown_fields=True)
    except (OSError, json_format.ParseError):
        return None


def write_pending(path: Path, policy: rollout_pb2.Policy | None) -> None:
    """Writes down which version is chosen; None: removes the file."""
    if policy is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json_format.MessageToJson(policy, preserving_proto_field_name=True))
    temporary.replace(path)
