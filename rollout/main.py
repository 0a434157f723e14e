"""Builds a worker from its settings and runs it until a signal, or until its run has finished."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from rollout.client import Credentials, SubmitClient
from rollout.config import EpisodeLimits, WorkerConfig
from rollout.data.fingerprint import fingerprint
from rollout.data.prompt_cursor import PromptSource
from rollout.data.prompt_order import PromptOrder
from rollout.data.tokenizer import Tokenizer
from rollout.endpoint.served_policy import ServedPolicy
from rollout.endpoint.server import Endpoint
from rollout.engine.parsing import EngineParsers
from rollout.engine.pool import EnginePool
from rollout.environments.pool import EnvironmentPool
from rollout.episodes.book import EpisodeBook
from rollout.episodes.budget import bounded_limits
from rollout.episodes.chat_format import ChatFormat
from rollout.episodes.offers import EpisodeOffers
from rollout.generation.episode_player import EpisodeDoor, EpisodePlayer
from rollout.generation.generator import GroupGenerator, sampling_of
from rollout.generation.run_agreement import agreed_run
from rollout.telemetry.tracing import WorkerTracing
from rollout.telemetry.worker_log import WorkerLog
from rollout.telemetry.worker_metrics import WorkerMetrics
from rollout.versions.verifier import Verifier
from rollout.worker import Worker, WorkerDependencies
from runtime import traces
from runtime.settings import SettingsError
from runtime.status import Status

_MODEL = "policy"  # the model's name at the endpoint where the run has none


async def run_until_signal(config: WorkerConfig) -> None:
    """Runs a worker until SIGTERM or SIGINT, or until its run has finished; then kills its servers and returns soon.

    Raises:
        SettingsError, TokenizerError, TaskError, CursorError, VersionError: the configuration cannot be used.
        ExceptionGroup: the errors that ended the worker; see ``Worker.run``.
    """
    running = asyncio.current_task()
    assert running is not None
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await _run(config)
    except asyncio.CancelledError:
        if not stopping:
            raise


async def _run(config: WorkerConfig) -> None:
    token = None if config.token_file is None else _read_token(config.token_file)
    credentials = Credentials(token, config.tls)
    tokenizer = Tokenizer(config.model, config.task.prompt_format)
    cache = config.cache_dir or config.state_dir / f"{config.name}.versions"
    verifier = Verifier(config.model, config.allowed_uris, cache, config.transfer_timeout_s)
    async with contextlib.AsyncExitStack() as stack:
        logs = config.log_dir / f"{config.name}.environment"
        environments = await stack.enter_async_context(EnvironmentPool.open(config.task, config.seed, logs))
        task = environments.task
        prompts = PromptSource(
            config.state_dir / f"{config.name}.cursor.json",
            PromptOrder(config.name, task.size),
            fingerprint(config.task, config.seed, task.size, task.fingerprint),
            config.task.on_change,
        )
        metrics = WorkerMetrics(len(config.engine.urls) or config.engine.count)
        worker_log = stack.enter_context(contextlib.closing(WorkerLog(config, metrics)))
        tracing = stack.enter_context(
            contextlib.closing(WorkerTracing(traces.start(config.traces, config.name, config.run)))
        )
        client = SubmitClient(config.gateway, credentials, config.name, max_message_bytes=config.max_message_bytes)
        client.follow(tracing)
        await stack.enter_async_context(client)
        pool = await stack.enter_async_context(
            EnginePool.open(config, tokenizer.vocab_size, tracing.observing(worker_log), tokenizer.text)
        )
        metrics.follow(client, pool)
        Status.start(config.status.listen, metrics.registry.prometheus, metrics.loop.problem, pool.behind)
        run = await agreed_run(client, config, tokenizer)
        player = None
        if task.plays:
            limits = bounded_limits(config.task.limits, run.max_response_context_tokens)
            player = await stack.enter_async_context(_player(config, limits, environments, pool, tokenizer, metrics))
        generator = GroupGenerator(config, pool, environments, player, tokenizer)
        dependencies = WorkerDependencies(client, pool, generator, prompts, verifier, worker_log, tracing)
        await Worker(config, dependencies).run()


@contextlib.asynccontextmanager
async def _player(
    config: WorkerConfig,
    limits: EpisodeLimits,
    environments: EnvironmentPool,
    pool: EnginePool,
    tokenizer: Tokenizer,
    metrics: WorkerMetrics,
) -> AsyncIterator[EpisodePlayer]:
    """Opens the book of episodes and serves it at the endpoint until the block ends."""
    parsers = config.endpoint.tool_parser, config.endpoint.reasoning_parser
    chat_format = ChatFormat(tokenizer, *parsers, EngineParsers(pool.ask), config.task.template)
    sampling = sampling_of(config, tokenizer, environments.task.stop)
    book = EpisodeBook(pool.generate_one, tokenizer, chat_format, sampling, limits, metrics.episodes)
    served = ServedPolicy(
        book=book,
        offers=EpisodeOffers(),
        model=config.run or _MODEL,
        encode=tokenizer.prompt_ids if config.task.prompt_format == "raw" else tokenizer.rendered_ids,
        count=chat_format.count,
        sampling=config.sampling,
        limits=limits,
        observer=metrics.endpoint,
    )
    async with Endpoint.open(config.endpoint, served, config.state_dir / f"{config.name}.socket") as endpoint:
        door = EpisodeDoor(endpoint.url, endpoint.socket, served.model, served.offers)
        yield EpisodePlayer(config.task, environments, book, door, tokenizer, metrics.episodes)


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"token_file = {path}: {error.strerror}") from error
    if not token:
        raise SettingsError(f"token_file = {path}: the file is empty")
    return token
