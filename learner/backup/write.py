"""Writes a backup: what belongs together (learner.backup.instant), then the manifest, without which it is none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from learner.backup.errors import BackupError
from learner.backup.file_copy import FileCopy
from learner.backup.instant import Instant, read_instant
from learner.backup.manifest import CHECKPOINTS, WEIGHTS, BackupManifest, new_name
from learner.backup.opened_file import OpenedFile
from learner.backup.progress import CopyProgress, amount
from learner.backup.queue_parts import AHEAD, INSTANT, QueueParts
from learner.backup.retention import remove_oldest
from learner.backup.run_sources import RunSources
from learner.backup.store import BackupStore
from learner.publish.catalog import PINNED, POINTER, pinned
from learner.queue import QueueError
from learner.queue.dump import QueueDump
from learner.queue.keys import Keys
from learner.queue.moving import MovingQueue
from learner.queue.versions_in_use import read_versions_in_use
from learner.storage.digests import FileDigest
from leeway.v1.manifest_pb2 import ManifestFile
from runtime.version_format.names import version_name


@dataclass(frozen=True)
class WrittenBackup:
    """A complete backup.

    Attributes:
        uri: where it is.
        manifest: what it is of.
        seconds: how long it took.
        script_s: how long gateways had no answer from Redis meanwhile.
        removed: names of older backups that were removed.
    """

    uri: str
    manifest: BackupManifest
    seconds: float
    script_s: float
    removed: list[str]

    def describe(self) -> str:
        """Says what was written, in one line."""
        older = f"; {len(self.removed)} older removed" if self.removed else ""
        missing = "".join(f"; left out: {name} ({why})" for name, why in self.manifest.left_out.items())
        return (
            f"{self.uri}: {self.manifest.account()}; {amount(self.manifest.size)} in {len(self.manifest.files)} files, "
            f"{self.seconds:.1f} s; submissions waited {1000 * self.script_s:.0f} ms at most{missing}{older}"
        )


def write_backup(
    sources: RunSources, uri: str, keep: int | None, progress: CopyProgress, best: str | None = None
) -> WrittenBackup:
    """Writes a backup of a run, which may be in progress, and removes the oldest ones.

    Before a final one is made, the queue stands still, and stays so: what it holds is all in the backup.

    Args:
        sources: where the run is.
        uri: a prefix, under which the backup gets a name of its own.
        keep: how many complete backups of this run stay there, this one included; None: all.
        progress: is told how far it is.
        best: the metric by which the best version is chosen, name:sampling:metric.

    Raises:
        BackupError: it could not be made; what is there of it is not complete, and will never be taken for a backup. A
            final one leaves the run as it was then. Or it is complete, and older ones could not be removed: the message says
            so.
        QueueError, CheckpointError: the run's queue or checkpoint cannot be read.
    """
    started, prefix = time.monotonic(), BackupStore(uri)
    store = prefix.below(new_name())
    try:
        with _standing_still(sources, store.uri):
            manifest, script_s = _write(sources, store, progress, best)
    except OSError as error:
        raise BackupError(f"{store.uri}: not complete: {error}") from error
    try:
        removed = remove_oldest(prefix, sources.queue.run, keep) if keep is not None else []
    except OSError as error:
        raise BackupError(f"{store.uri}: complete, but older backups could not be removed: {error}") from error
    return WrittenBackup(store.uri, manifest, time.monotonic() - started, script_s, removed)


@contextlib.contextmanager
def _standing_still(sources: RunSources, uri: str) -> Iterator[None]:
    if not sources.final:
        yield
        return
    with MovingQueue(sources.queue) as queue:
        queue.begin(uri)
        try:
            yield
        except BaseException:
            with contextlib.suppress(QueueError):  # Redis is away: what it says of the move tells what to do
                queue.give_up()
            raise
        queue.complete()


def _write(
    sources: RunSources, store: BackupStore, progress: CopyProgress, best: str | None
) -> tuple[BackupManifest, float]:
    copy = FileCopy(store, progress)
    with contextlib.ExitStack() as stack, QueueDump(sources.queue) as dump:
        copy.copy(stack.enter_context(OpenedFile(name, path)) for name, path in sources.files.items())
        for name, text in sources.texts.items():
            copy.write(name, text.encode())
        chosen = None if best is None else read_versions_in_use(sources.queue, best).best
        ahead = QueueParts(copy, AHEAD)
        instant, created = read_instant(sources, chosen, dump, ahead, stack), time.time()
        ahead.flush()
        parts = QueueParts(copy, INSTANT)
        halted = Keys(sources.queue.run).halted  # the run that is restored does not stand still
        parts.add(record for record in instant.snapshot.records if record.key != halted)
        parts.flush()
        copy.copy(instant.opened)
    _require_intact(copy, instant)
    left_out = dict(_without_damaged(copy, instant))
    for name, content in _markers(sources, instant, left_out):
        copy.write(name, content)
    snapshot = instant.snapshot
    manifest = BackupManifest(
        run=sources.queue.run,
        created=created,
        checkpoint=instant.checkpoint,
        step=instant.state.step,
        witness=snapshot.witness.plain(),
        queued=snapshot.queued,
        weights_uri=sources.weights.absolute().as_uri(),
        files=copy.files,
        left_out=left_out,
    )
    manifest.write(store)
    return manifest, snapshot.script_s


def _require_intact(copy: FileCopy, instant: Instant) -> None:
    """Compares what was copied of checkpoints with what was written into them. Raises BackupError."""
    for name, state in instant.states.items():
        for file, expected in state.files.items():
            if copy.files.get(f"{CHECKPOINTS}{name}/{file}") != expected:
                raise BackupError(
                    f"checkpoint {name}: {file} is damaged or missing: no backup was made; restart the learner, which "
                    "goes on from the newest intact checkpoint, then back up again"
                )


def _without_damaged(copy: FileCopy, instant: Instant) -> Iterator[tuple[str, str]]:
    """Takes damaged versions out of the backup again: a run can go on without them. Yields name and reason of each."""
    for version in sorted(instant.versions):
        prefix = f"{WEIGHTS}{version_name(version)}/"
        files = instant.listed[version]
        if isinstance(files, str):
            fault = files
        else:
            wrong = [file.name for file in files if not _is(copy.files.get(prefix + file.name), file)]
            fault = f"damaged: {', '.join(wrong)}" if wrong else ""
        if fault:
            copy.leave_out(prefix)
            yield prefix.rstrip("/"), fault


def _is(found: FileDigest | None, expected: ManifestFile) -> bool:
    return found is not None and (found.size, found.digest) == (expected.size, expected.digest)


def _markers(sources: RunSources, instant: Instant, left_out: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Small files of the directory of versions, for those that are in the backup."""
    present = {version for version in instant.versions if f"{WEIGHTS}{version_name(version)}" not in left_out}
    if newest := present & instant.snapshot.versions:
        yield WEIGHTS + POINTER, b"%d" % max(newest)
    for version in sorted(pinned(sources.weights) & present):
        yield f"{WEIGHTS}{PINNED}/{version:06d}", b""
