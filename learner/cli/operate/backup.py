"""Backs up a run of this machine, and makes a run's directory out of a backup."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from learner.backup.errors import BackupError
from learner.backup.manifest import CHECKPOINTS, QUEUE, BackupManifest, newest_backup, read_manifest
from learner.backup.progress import CopyProgress, amount
from learner.backup.restore import fetch_backup, leave_numbers, load_queue, require_newer_than
from learner.backup.run_sources import RunSources
from learner.backup.store import BackupStore
from learner.backup.write import WrittenBackup, write_backup
from learner.cli.operate.restored_queue import queue_to_fill, require_empty_queue, use_queue
from learner.cli.run.queue import queue_of
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Restored:
    """What a restore has made.

    Attributes:
        source: URI of the backup.
        manifest: what it is of.
        keys: keys that were written into Redis.
        whole: whether `leeway up` can continue the directory: a learner's own backup has no run file.
    """

    source: str
    manifest: BackupManifest
    keys: int
    whole: bool


def move_run(run: RunDirectory, uri: str, keep: int | None, tell: Tell) -> WrittenBackup:
    """Backs up a run that is not in progress, and ends it here: it goes on where the backup is restored.

    Args:
        run: its directory.
        uri: where to: a prefix.
        keep: how many complete backups of the run stay there; None: all.
        tell: is told how far it is.

    Raises:
        RunError: the run is in progress.
        BackupError: the backup could not be made; the run may go on here.
        QueueError, CheckpointError, SettingsError: the run cannot be read, or its queue stands still for another reason.
    """
    with run.lock():
        return back_up_run(run, uri, keep, tell, final=True)


def back_up_run(run: RunDirectory, uri: str, keep: int | None, tell: Tell, final: bool = False) -> WrittenBackup:
    """Backs up a run of this machine, whether it is in progress or not.

    Args:
        run: its directory.
        uri: where to: a prefix.
        keep: how many complete backups of the run stay there; None: all.
        tell: is told how far it is.
        final: whether the run is to go on elsewhere only; then it must not be in progress.

    Raises:
        BackupError: it could not be made.
        QueueError, CheckpointError, SettingsError: the run cannot be read.
    """
    run_file = RunFile.read(run.root)
    with queue_of(run) as queue:
        files = dict(_small_files(run, run_file))
        sources = RunSources(queue, run.checkpoints, run.weights, run.metrics, files=files, final=final)
        return write_backup(sources, uri, keep, CopyProgress(tell), run_file.best_metric)


def _small_files(run: RunDirectory, run_file: RunFile) -> Iterator[tuple[str, Path]]:
    """Run file, identities, cursors and the demo's own model: name in the backup and path of each that is there.

    Tokens are not among them: fleets keep theirs, of which the identities have hashes, and `leeway up` draws new ones for
    this machine's.
    """
    paths = [run.settings, run.identities, *sorted(run.state.glob("*.json")), run.state / "identity"]
    if run_file.makes_model:
        paths += sorted(run.model.glob("*"))
    for path in paths:
        if path.is_file() and path != run.processes:
            yield str(path.relative_to(run.root)), path


def restore_run(uri: str, directory: Path, queue_url: str | None, tell: Tell) -> Restored:
    """Makes a run's directory of a backup. It gets its name when all of it is there.

    Args:
        uri: a backup, or a prefix, of which the newest complete backup is taken.
        directory: must be empty, or not exist.
        queue_url: the Redis to write the queue into; None: the one that the run file names.
        tell: is told how far it is.

    Raises:
        BackupError: there is no complete backup, or a file of it is damaged; or the directory is not empty.
        QueueError: Redis has groups of the run already, or cannot be used; found before anything large is copied.
    """
    store, manifest = _opened(uri, tell)
    target = directory.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(f"{directory}: not empty: a backup is restored into a new directory; name another one")
    partial = target.with_name(f"{target.name}.restoring")
    if partial.exists():
        raise BackupError(f"{partial}: left by a restore that was cut off, or in use by another one: remove it first")
    partial.mkdir(mode=0o700, parents=True)
    try:
        require_empty_queue(store, manifest, partial, queue_url)
        fetch_backup(store, manifest, partial, CopyProgress(tell))
        leave_numbers(partial / CHECKPOINTS, manifest.created)
        run = RunDirectory.at(partial)
        whole = run.settings.is_file()
        if queue_url is not None and whole:
            use_queue(run, queue_url)
        with queue_to_fill(run, queue_url, manifest.run) as config:
            keys = load_queue(run.root, manifest, config, (target / "weights").as_uri())
        shutil.rmtree(partial / QUEUE)
        if whole:
            run.create()
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
    return Restored(store.uri, manifest, keys, whole)


def restore_queue(uri: str, run: RunDirectory, tell: Tell) -> Restored:
    """Writes the queue of a backup into the empty Redis of a run that is not in progress; its files stay as they are.

    Raises:
        BackupError: the backup is of another run, is damaged, or its queue is older than the newest checkpoint.
        QueueError: Redis has groups of the run already, or cannot be used.
        RunError: the run is in progress.
    """
    store, manifest = _opened(uri, tell)
    identity = run.identity(RunFile.read(run.root).run.name)
    if manifest.run != identity:
        raise BackupError(f"{store.uri}: a backup of run {manifest.run!r}, and {run.root} is run {identity!r}")
    with run.lock():
        require_newer_than(run.checkpoints, manifest)
        partial = run.root / "queue.restoring"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        try:
            fetch_backup(store, manifest, partial, CopyProgress(tell), only=(QUEUE,))
            run.redis.mkdir(mode=0o700, exist_ok=True)
            with queue_to_fill(run, None, manifest.run) as config:
                keys = load_queue(partial, manifest, config, run.weights.as_uri())
        finally:
            shutil.rmtree(partial)
    return Restored(store.uri, manifest, keys, True)


def _opened(uri: str, tell: Tell) -> tuple[BackupStore, BackupManifest]:
    store = newest_backup(BackupStore(uri))
    manifest = read_manifest(store)
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.created))
    tell(f"{store.uri}: run {manifest.run}, made {when}: {manifest.account()}; {amount(manifest.size)}")
    return store, manifest
