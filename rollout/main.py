"""Builds a worker from its settings and runs it until a signal, or until its run has finished."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from rollout.client import Credentials, SubmitClient
from rollout.config import WorkerConfig
from rollout.data.prompt_cursor import PromptSource
from rollout.data.prompt_order import PromptOrder
from rollout.data.tokenizer import Tokenizer
from rollout.engine.pool import EnginePool
from rollout.tasks import load_task
from rollout.tasks.fingerprint import fingerprint
from rollout.tasks.scoring import RewardPool
from rollout.telemetry.tracing import WorkerTracing
from rollout.telemetry.worker_log import WorkerLog
from rollout.telemetry.worker_metrics import WorkerMetrics
from rollout.versions.verifier import Verifier
from rollout.worker import Worker, WorkerDependencies
from runtime import traces
from runtime.settings import SettingsError
from runtime.status import Status


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
    task = load_task(config.task.name, config.seed, config.task.options)
    tokenizer = Tokenizer(config.model, config.task.prompt_format)
    cache = config.cache_dir or config.state_dir / f"{config.name}.versions"
    verifier = Verifier(config.model, config.allowed_uris, cache, config.transfer_timeout_s)
    prompts = PromptSource(
        config.state_dir / f"{config.name}.cursor.json",
        PromptOrder(config.name, task.size),
        fingerprint(task, config.task, config.seed),
        config.task.on_change,
    )
    async with contextlib.AsyncExitStack() as stack:
        metrics = WorkerMetrics(len(config.engine.urls) or config.engine.count)
        worker_log = stack.enter_context(contextlib.closing(WorkerLog(config, metrics)))
        reward_pool = RewardPool(task, config.task, config.seed)
        stack.push_async_callback(reward_pool.close)
        tracing = stack.enter_context(
            contextlib.closing(WorkerTracing(traces.start(config.traces, config.name, config.run)))
        )
        client = SubmitClient(config.gateway, credentials, config.name, max_message_bytes=config.max_message_bytes)
        client.follow(tracing)
        await stack.enter_async_context(client)
        pool = await stack.enter_async_context(
            EnginePool.open(config, tokenizer.vocab_size, tracing.observing(worker_log))
        )
        metrics.follow(client, pool)
        Status.start(config.status.listen, metrics.registry.prometheus, metrics.loop.problem, pool.behind)
        dependencies = WorkerDependencies(
            client, pool, task, reward_pool, tokenizer, prompts, verifier, worker_log, tracing
        )
        await Worker(config, dependencies).run()


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"token_file = {path}: {error.strerror}") from error
    if not token:
        raise SettingsError(f"token_file = {path}: the file is empty")
    return token
