"""Composes one evaluator process, and runs it until a signal, or until its run has finished and is evaluated."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from rollout.client import Credentials, SubmitClient
from rollout.config.evaluation import EvaluatorConfig, evaluation_name
from rollout.data.tokenizer import Tokenizer
from rollout.engine.observer import Failure, ReplicaState
from rollout.engine.pool import EnginePool
from rollout.engine.refitter import in_daemon_thread
from rollout.evaluation.evaluator import Evaluator, EvaluatorDependencies, until_loaded
from rollout.evaluation.evaluator_metrics import EvaluatorMetrics
from rollout.evaluation.generators import Generators, Observers
from rollout.evaluation.measurement import evaluate_prompts
from rollout.evaluation.once import weights_of
from rollout.evaluation.results import ResultFile
from rollout.telemetry.endpoint_metrics import EndpointMetrics
from rollout.telemetry.episode_metrics import EpisodeMetrics
from rollout.versions.verifier import Verifier
from runtime.metric_registry import MetricRegistry
from runtime.settings import SettingsError
from runtime.status import Heartbeat, Status
from runtime.stop_on_signal import run_until_stopped

_LOOP_S = 30.0  # an event loop that stands still for longer counts as stuck


class _EngineLog:
    """Logs what happens to the evaluator's engine."""

    def engine_state(self, engine: int, state: ReplicaState) -> None:
        """Does nothing: the engine itself logs its states."""

    def engine_refit(self, engine: int, version: int, seconds: float) -> None:
        structlog.get_logger().info("version loaded", engine=engine, version=version, seconds=round(seconds, 3))

    def request_failed(self, engine: int, failure: Failure) -> None:
        structlog.get_logger().warning("request failed; tried again", engine=engine, failure=failure)


async def run_until_signal(config: EvaluatorConfig, once: bool) -> None:
    """Runs an evaluator until SIGTERM or SIGINT, or until all is evaluated; then kills its engine.

    Args:
        config: of the evaluator.
        once: evaluate ``config.version``, or the model directory, without a gateway; then end.

    Raises:
        SettingsError, TokenizerError, TaskError, PromptSetError, VersionError: the configuration cannot be used.
        EvaluationError, EngineError: with ``once``: there is no result.
        ExceptionGroup: the errors that ended the evaluator; see ``Evaluator.run``.
    """
    await run_until_stopped(_evaluate_once(config) if once else _follow(config))


async def _follow(config: EvaluatorConfig) -> None:
    if not config.gateway:
        raise SettingsError("gateway is not set: name the run's gateway, or evaluate one version with --once")
    if not config.allowed_uris:
        raise SettingsError("allowed_uris is empty: list the places from which the run's versions may be read")
    registry = MetricRegistry()
    metrics, generators = EvaluatorMetrics(registry), _generators(config, registry)
    client = SubmitClient(config.gateway, Credentials(tls=config.tls, token_file=config.token_file), config.name)
    beat = Heartbeat("the event loop", _LOOP_S)
    status = Status.start(config.status.listen, registry.prometheus, beat.problem, lambda: None)
    beating = asyncio.create_task(beat.beat_with_loop())
    try:
        async with client:
            dependencies = EvaluatorDependencies(
                client=client,
                verify=_verifier(config).verify,
                open_pool=lambda: _open_pool(config, generators.tokenizer),
                generators=generators,
                results=ResultFile(config.results),
                metrics=metrics,
            )
            await Evaluator(config, dependencies).run()
    finally:
        beating.cancel()
        status.close()


async def _evaluate_once(config: EvaluatorConfig) -> None:
    generators, results = _generators(config, MetricRegistry()), ResultFile(config.results)
    version = await in_daemon_thread(lambda: weights_of(config, _verifier(config)))
    async with _open_pool(config, generators.tokenizer) as pool, asyncio.TaskGroup() as group:
        running = group.create_task(pool.run())
        await pool.load(version)
        for task in config.task:
            for sampling in config.sampling:
                async with asyncio.timeout(config.timeout_s), generators.open(pool, task, sampling) as (made, asked):
                    await until_loaded(pool, version.number)
                    result = await evaluate_prompts(made, asked, version.number, config, (task, sampling))
                results.append(result)
                structlog.get_logger().info("evaluated", evaluation=evaluation_name(task), sampling=sampling.name)
        running.cancel()


def _generators(config: EvaluatorConfig, registry: MetricRegistry) -> Generators:
    observers = Observers(EpisodeMetrics(registry), EndpointMetrics(registry))
    return Generators(config, Tokenizer(config.model), observers)


def _open_pool(config: EvaluatorConfig, tokenizer: Tokenizer) -> contextlib.AbstractAsyncContextManager[EnginePool]:
    # The pool draws nothing itself: only the limit of a request depends on the sampling.
    longest = max(config.sampling, key=lambda one: one.max_new_tokens or config.max_new_tokens)
    worker = config.worker(config.task[0], longest)
    return EnginePool.open(worker, tokenizer.vocab_size, _EngineLog(), tokenizer.text)


def _verifier(config: EvaluatorConfig) -> Verifier:
    cache = config.cache_dir or config.state_dir / f"{config.name}.versions"
    return Verifier(config.model, config.allowed_uris, cache, config.transfer_timeout_s, config.locations)
