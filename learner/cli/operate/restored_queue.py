"""The Redis that the queue of a backup is restored into: which one it is, and whether it may be written."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learner.backup.errors import BackupError
from learner.backup.live import SETTINGS
from learner.backup.manifest import BackupManifest
from learner.backup.progress import CopyProgress
from learner.backup.restore import fetch_backup
from learner.backup.store import BackupStore
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.sections import EMBEDDED
from learner.config import QueueConfig
from learner.queue import EmbeddedRedis
from learner.queue.load import QueueLoad


def use_queue(run: RunDirectory, url: str) -> None:
    """Writes another address of the queue into a run's settings. Raises SettingsError when it is none."""
    values = json.loads(run.settings.read_text())
    values["queue"]["url"] = url
    run.settings.write_text(json.dumps(values, indent=2))
    RunFile.read(run.root)


def require_empty_queue(store: BackupStore, manifest: BackupManifest, partial: Path, url: str | None) -> None:
    """Refuses a Redis that a queue cannot be restored into, before anything large is copied.

    Args:
        store: the backup.
        manifest: its manifest.
        partial: a directory for the backup's settings, which are removed again.
        url: the Redis; None: the one that the run file names.

    Raises:
        BackupError: nothing says where the queue is to be, or the settings are damaged.
        QueueError: Redis has groups of the run already, or cannot be used.
    """
    with tempfile.TemporaryDirectory(dir=partial) as name:
        run = RunDirectory.at(Path(name))
        fetch_backup(store, manifest, run.root, CopyProgress(), only=(run.settings.name, SETTINGS))
        if run.settings.is_file():
            if url is not None:
                use_queue(run, url)
            if RunFile.read(run.root).queue.url == EMBEDDED:
                return  # a new one, in the new directory
        with queue_to_fill(run, url, manifest.run) as config, QueueLoad(config) as load:
            load.require_empty()


@contextlib.contextmanager
def queue_to_fill(run: RunDirectory, queue_url: str | None, identity: str) -> Iterator[QueueConfig]:
    """Yields the settings of the queue that is to be filled; starts the embedded Redis for the block.

    Args:
        run: the restored directory, whose settings are there.
        queue_url: the Redis to write into where there is no run file; a run file names it.
        identity: name of the run's keys.

    Raises:
        BackupError: nothing says where the queue is to be.
        SettingsError: the settings are not allowed.
        QueueError: the embedded Redis runs already, or cannot be started.
    """
    if not run.settings.is_file():
        if queue_url is None:
            raise BackupError(
                "a learner made this backup: there is no run file in it. Say which Redis its queue is to be written into: "
                "--queue-url redis://host:6379/0"
            )
        values = {"url": queue_url, "run": identity, **_access(run.root / SETTINGS, queue_url)}
        yield QueueConfig.parse(values, source="--queue-url")
        return
    run_file = RunFile.read(run.root)
    if run_file.queue.url != EMBEDDED:
        yield run_file.queue_config(run_file.queue.url, identity)
        return
    server = EmbeddedRedis.start(run.redis)
    try:
        yield run_file.queue_config(server.url, identity)
    finally:
        server.stop()


def _access(settings: Path, url: str) -> dict[str, Any]:
    """What a learner's own settings say of certificates and of the password, as far as the URL leaves it open."""
    if not settings.is_file():
        return {}
    known = json.loads(settings.read_text())["queue"]
    scheme, _, rest = url.partition("://")
    user, colon, _ = rest.partition("/")[0].rpartition("@")[0].partition(":")
    secured = scheme.startswith("rediss")
    named = {"tls"} if secured else set[str]()
    if not colon and (secured or user):
        named.add("password_file")
    return {name: known[name] for name in named if known.get(name) is not None}
