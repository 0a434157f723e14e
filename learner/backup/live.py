"""A backup made by the learner itself, in the background, for an operator who asks for it from elsewhere.

It copies what a learner can see: Redis, checkpoints, versions, metrics and its own settings. Identities are the gateways',
and cursors the workers': those are not in it. It takes no lock, stops nothing, and begins no collective: rank 0 calls
``back_up`` between two steps, goes on training, and asks the future now and then.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from typing import Any

import structlog

from learner.backup.errors import BackupError
from learner.backup.progress import CopyProgress
from learner.backup.run_sources import RunSources
from learner.backup.store import BackupStore
from learner.backup.write import WrittenBackup, write_backup
from learner.config import LearnerConfig
from learner.queue.address import without_password
from runtime.errors import LeewayError

SETTINGS = "learner.json"
_running = threading.Lock()


def back_up(config: LearnerConfig, uri: str, keep: int | None = None, final: bool = False) -> Future[WrittenBackup]:
    """Begins a backup on a thread of its own, and returns at once.

    Args:
        config: the learner's settings.
        uri: where to: a prefix such as s3://bucket/path, or file:///path as the learner's process sees it.
        keep: how many complete backups of this run stay there; None: all.
        final: whether the run goes on where it is restored: its queue stands still from now on.

    Returns:
        A future: ``done()`` says whether it has ended; ``result()`` is what was written, whose ``describe()`` is a line for
        the journal, or raises a LeewayError that says what is wrong. The thread is a daemon: a learner that ends does not
        wait for it, and what is there of the backup then is not complete.

    Raises:
        BackupError: another backup of this process is not done yet, or the URI is not allowed.
    """
    BackupStore(uri)
    if not _running.acquire(blocking=False):
        raise BackupError("a backup is being made already: ask again when it is done")
    future: Future[WrittenBackup] = Future()
    threading.Thread(target=_run, args=(future, config, uri, keep, final), name="backup", daemon=True).start()
    return future


def _run(future: Future[WrittenBackup], config: LearnerConfig, uri: str, keep: int | None, final: bool) -> None:
    log = structlog.get_logger(process="backup")
    try:
        sources = RunSources(
            config.queue,
            config.checkpoint.dir,
            config.publish.dir,
            config.metrics_dir,
            texts={SETTINGS: json.dumps(_without_secrets(config.model_dump(mode="json")), indent=1)},
            final=final,
        )
        written = write_backup(sources, uri, keep, CopyProgress(lambda line: log.info(line)), config.publish.best)
    except Exception as error:  # noqa: BLE001 - the end of this thread; raised where the future is asked
        log.error("backup failed", uri=uri, error=f"{type(error).__name__}: {error}")
        _running.release()
        future.set_exception(
            error if isinstance(error, LeewayError) else BackupError(f"{type(error).__name__}: {error}")
        )
    else:
        log.info("backed up", uri=written.uri, seconds=written.seconds, bytes=written.manifest.size)
        _running.release()
        future.set_result(written)


def _without_secrets(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without a password in the queue's URL, and without options of object stores' clients, which may be keys."""
    queue = {**settings["queue"], "url": without_password(settings["queue"]["url"])}
    return {**_without_options(settings), "queue": queue}


def _without_options(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_options(inner) for name, inner in value.items() if name != "url_options"}
    return [_without_options(inner) for inner in value] if isinstance(value, list) else value
