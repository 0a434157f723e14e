"""Builds a worker from its settings and runs it until a signal, or until its run has finished."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import structlog

from rollout.client import Credentials, SubmitClient
from rollout.config import TaskConfig, WorkerConfig
from rollout.data.fingerprint import fingerprint
from rollout.data.prompt_cursor import PromptSource
from rollout.data.prompt_memory import PromptMemory
from rollout.data.prompt_order import PromptOrder
from rollout.data.task_shares import TaskShares
from rollout.data.tokenizer import Tokenizer
from rollout.engine.pool import EnginePool
from rollout.environments.pool import EnvironmentPool
from rollout.episodes.budget import bounded_limits
from rollout.generation.generator import GroupGenerator
from rollout.generation.prompt_supply import PromptSupply
from rollout.generation.run_agreement import adapters_to_load, agreed_run
from rollout.generation.task_prompts import TaskPrompts
from rollout.opened_player import opened_player
from rollout.telemetry.tracing import WorkerTracing
from rollout.telemetry.worker_files import WorkerFiles
from rollout.telemetry.worker_log import WorkerLog
from rollout.telemetry.worker_metrics import WorkerMetrics
from rollout.versions.verifier import Verifier
from rollout.worker import Worker, WorkerDependencies
from runtime import traces
from runtime.status import Status
from runtime.stop_on_signal import run_until_stopped


async def run_until_signal(config: WorkerConfig) -> None:
    """Runs a worker until SIGTERM or SIGINT, or until its run has finished; then kills its servers and returns soon.

    Raises:
        SettingsError, TokenizerError, TaskError, CursorError, VersionError: the configuration cannot be used.
        ExceptionGroup: the errors that ended the worker; see ``Worker.run``.
    """
    await run_until_stopped(_run(config))


async def _run(config: WorkerConfig) -> None:
    credentials = Credentials(tls=config.tls, token_file=config.token_file)
    tokenizer = Tokenizer(config.model)
    cache = config.cache_dir or config.state_dir / f"{config.name}.versions"
    verifier = Verifier(config.model, config.allowed_uris, cache, config.transfer_timeout_s, config.locations)
    metrics = WorkerMetrics(
        len(config.engine.urls) or config.engine.count,
        [task.label for task in config.task],
        config.tls and config.tls.certificate,
    )
    async with contextlib.AsyncExitStack() as stack:
        environments = [await stack.enter_async_context(_environments(config, task)) for task in config.task]
        prompts = [
            _task_prompts(config, task, own, metrics) for task, own in zip(config.task, environments, strict=True)
        ]
        shares = TaskShares(
            config.state_dir / f"{config.name}.shares.json", {task.label: task.weight for task in config.task}
        )
        metrics.tasks.follow(lambda: [one.resting() for one in prompts])
        worker_log = stack.enter_context(contextlib.closing(WorkerLog(config, metrics)))
        stack.enter_context(WorkerFiles(config, metrics.registry))
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
        if (loaded := adapters_to_load(run, config)) is not None:
            pool.expect_adapters(loaded)
            verifier.merges = False
        playing = [number for number, own in enumerate(environments) if own.task.plays]
        generators = []
        for number, (task, own) in enumerate(zip(config.task, environments, strict=True)):
            player = None
            if own.task.plays:
                limits = bounded_limits(task.limits, run.max_response_context_tokens)
                bounded = task.model_copy(update={"limits": limits})
                opened = opened_player(_with_endpoint(config, playing, number), bounded, own, pool, tokenizer, metrics)
                player = await stack.enter_async_context(opened)
            generators.append(GroupGenerator(config, task, pool, own, player, tokenizer))
        supply = PromptSupply(prompts, shares)
        dependencies = WorkerDependencies(client, pool, generators, supply, verifier, worker_log, tracing)
        await Worker(config, dependencies).run()


def _environments(config: WorkerConfig, task: TaskConfig) -> contextlib.AbstractAsyncContextManager[EnvironmentPool]:
    log = config.log_dir / f"{config.name}.{task.label}.environment"
    return EnvironmentPool.open(task, config.seed, log, config.environments.socket)


def _task_prompts(
    config: WorkerConfig, task: TaskConfig, environments: EnvironmentPool, metrics: WorkerMetrics
) -> TaskPrompts:
    """Opens a task's cursor, and its memory where its prompts end and may rest."""
    size, files = environments.task.size, config.state_dir / f"{config.name}.{task.label}"
    prompts = fingerprint(task, config.seed, size, environments.task.fingerprint)
    metrics.tasks.unusable_rows(task.label, environments.task.unusable_rows)
    cursor = PromptSource(
        files.with_name(f"{files.name}.cursor.json"), PromptOrder(config.name, size), prompts, task.on_change
    )
    memory = None
    if task.rest.after and size is None:
        log = structlog.get_logger()
        log.warning("task.rest has no effect: prompts that never end do not come back", task=task.label)
    elif task.rest.after and size is not None:
        memory = PromptMemory(files.with_name(f"{files.name}.memory.jsonl"), size, task.rest, prompts)
    return TaskPrompts(task, environments, cursor, memory, metrics.tasks)


def _with_endpoint(config: WorkerConfig, playing: Sequence[int], number: int) -> WorkerConfig:
    """Returns the settings with an endpoint of its own for one of the tasks that play episodes.

    The one whose agents are elsewhere, or else the first, has the address of the settings; others take a free port of this
    machine.
    """
    if number == next((task for task in playing if config.task[task].remote), playing[0]):
        return config
    endpoint = config.endpoint.model_copy(update={"listen": "127.0.0.1:0", "url": "", "remote_token_file": None})
    return config.model_copy(update={"name": f"{config.name}.{number}", "endpoint": endpoint})
