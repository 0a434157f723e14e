"""`leeway prepare`: the directory of a run whose processes a scheduler starts, on as many machines as it likes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from learner.cli.run.run_directory import RunError
from learner.cli.run.run_file import RunFile
from learner.cli.run.sections import EMBEDDED
from learner.cli.up.model_check import vocabulary_size
from learner.cli.up.process_settings import issue_tokens, write_settings
from learner.queue.server_files import write_server_files


def prepare_scheduled(source: Path, overrides: Sequence[str], redis: str | None) -> list[Path]:
    """Makes or updates a run's directory: run.json, tokens, identities, and the settings file of every process.

    Given again for the same directory, it keeps tokens, passwords and the run's name in Redis, and changes what
    ``overrides`` say: where a scheduler starts the run again, its first machine may be another.

    Args:
        source: a run file of a new run, or the directory of one that goes on with the settings it had.
        overrides: changes of single settings, as ``section.key=value``.
        redis: host and port of a server for this run alone, for which redis.conf and a password are written; None: the
            run file says where Redis is.

    Returns:
        The files that processes are started with.

    Raises:
        SettingsError: a setting is missing, unknown or not allowed, or the model does not fit.
        RunError: the directory is in use, has another run, or the run needs what only `leeway up` makes.
        QueueError: ``redis`` is no address.
    """
    run_file = RunFile.read(source, overrides)
    run = run_file.directory
    if run.settings.is_file() and not source.is_dir():
        raise RunError(f"{run.root} exists: give the directory itself to go on, or --set run.name=... for a new run")
    if run.is_locked():
        raise RunError(f"{run.root}: the run is in progress in another process; stop that one first")
    if run_file.demo_model:
        raise RunError(
            f'model.path = "{run_file.demo_model}": that model is made by `leeway up`; give a Hugging Face directory that '
            "every machine sees"
        )
    if redis is None and run_file.queue.url == EMBEDDED:
        raise RunError(
            f'queue.url = "{EMBEDDED}": that server is one of `leeway up`, for one machine; add --redis HOST:PORT, or set '
            "queue.url to a Redis that every machine reaches"
        )
    learner = run_file.learner
    vocabulary_size(run_file.model_directory(), learner.parallel, learner.lora)  # before anything is written
    run.create()
    files: list[Path] = []
    if redis is not None:
        memory = run_file.queue.redis_memory
        password = write_server_files(run.redis, redis, run_file.queue.aof, memory)
        files.append(password.with_name("redis.conf"))
        run_file = RunFile.read(source, [*overrides, *_own_server(run_file, redis, password, memory)])
    run_file.absolute().write(run.settings)
    run_file = RunFile.read(run.root)
    issue_tokens(run_file)
    write_settings(run_file, run_file.queue.url)
    return [*files, *sorted(run.config.glob("*.json"))]


def _own_server(run_file: RunFile, redis: str, password: Path, memory: int) -> list[str]:
    """Settings, as overrides, of a run whose Redis is its own: half of its memory may wait, as with `leeway up`."""
    bound = run_file.gateway.admission.max_queued_bytes or memory // 2
    return [
        f"queue.url=redis://{redis}/0",
        f"queue.password_file={json.dumps(str(password))}",
        f"gateway.admission.max_queued_bytes={bound}",
    ]
