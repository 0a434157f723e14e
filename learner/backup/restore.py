"""Makes the files and the queue of a run out of a backup; every byte is compared with its digest before it is used."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from learner.backup.errors import BackupError
from learner.backup.file_copy import fetch
from learner.backup.manifest import BackupManifest
from learner.backup.progress import CopyProgress
from learner.backup.queue_parts import AHEAD, INSTANT, read_parts
from learner.backup.store import BackupStore
from learner.checkpoint.store import DamagedError, completed, read_state, write_state
from learner.config import QueueConfig
from learner.queue.dump import moved, wanted
from learner.queue.load import QueueLoad
from learner.queue.restored_changes import awaited_backups, settled
from learner.queue.witness import Witness

_SPARE = 1000  # version numbers, for clocks of two machines that differ


def fetch_backup(
    store: BackupStore, manifest: BackupManifest, directory: Path, progress: CopyProgress, only: tuple[str, ...] = ("",)
) -> None:
    """Copies a backup into an empty directory, under the names of a run's directory, and its queue under ``queue/``.

    Args:
        store: the backup.
        manifest: its manifest.
        directory: where to; it exists.
        progress: is told how far it is.
        only: how the names of the files begin that are copied.

    Raises:
        BackupError: a file is missing or damaged; the message names it.
        OSError: the directory cannot be written.
    """
    files = {name: file for name, file in manifest.files.items() if name.startswith(only)}
    fetch(store, files, directory, progress)


def load_queue(directory: Path, manifest: BackupManifest, config: QueueConfig, weights_uri: str) -> int:
    """Writes the queue of a backup that was fetched into a Redis that is empty of this run; returns how many keys.

    Args:
        directory: where ``fetch_backup`` has copied it.
        manifest: its manifest.
        config: where the queue is to be; its run is the backup's.
        weights_uri: where the versions are from now on.

    Raises:
        QueueError: Redis has groups of this run already, cannot be used, or is used by others meanwhile.
        BackupError: the dump is not whole.
    """
    needed, count = wanted(read_parts(directory, INSTANT), manifest.run), 0
    backups = awaited_backups(read_parts(directory, INSTANT), manifest.run)
    with QueueLoad(config) as load:
        load.begin()
        for record in read_parts(directory, AHEAD):
            if record.key in needed:
                needed.discard(record.key)
                load.put(record)
                count += 1
        if needed:
            raise BackupError(
                f"the dump has no content for {len(needed):,} keys, such as {min(needed)}: use another backup"
            )
        for record in read_parts(directory, INSTANT):
            if record.kind != "same":
                record = settled(record, manifest.run, backups)
                load.put(moved(record, manifest.run, manifest.weights_uri, weights_uri))
                count += 1
        load.finish()
    return count


def leave_numbers(checkpoints: Path, created: float) -> None:
    """Makes the learner that resumes from restored checkpoints number its versions above all that were ever published.

    Fleets may have versions that were published after the backup, and go on with the highest number that they know. So the
    checkpoints claim numbers for what may have been published since: a version a second is more than any learner makes.

    Args:
        checkpoints: directory of the restored checkpoints.
        created: Unix seconds at which the backup was made.

    Raises:
        CheckpointError, OSError: a checkpoint cannot be read or written.
    """
    gap = _SPARE + max(0, int(time.time() - created))
    for directory in completed(checkpoints):
        state = read_state(directory)
        extra = {**state.extra, "version": state.extra.get("version", 0) + gap}
        write_state(directory, replace(state, extra=extra))


def require_newer_than(checkpoints: Path, manifest: BackupManifest) -> None:
    """Refuses a backup whose queue is older than what the newest checkpoint of a directory has seen of it.

    Groups that these weights contain would be queued again, and trained twice.

    Raises:
        BackupError: it is older, or the checkpoint has seen other data; the message says by how much.
    """
    for directory in reversed(completed(checkpoints)):
        try:
            state = read_state(directory)
        except DamagedError:
            continue
        seen = state.extra.get("witness")
        if seen is None:
            return
        known, found = Witness.of(seen), manifest.seen
        if known.nonce == found.nonce and found.clock >= known.floor:
            return
        why = (
            f"is older than what checkpoint {directory.name} has seen, by {(known.clock - found.clock) / 1000:.0f} s"
            if known.nonce == found.nonce
            else f"is not of the data that checkpoint {directory.name} has seen"
        )
        numbers = "; ".join(
            f"{what} {sum(there.values()):,}, the checkpoint knew of {sum(before.values()):,}"
            for what, there, before in (
                ("accepted", found.accepted, known.accepted),
                ("trained", found.trained, known.trained),
            )
        )
        raise BackupError(
            f"the backup's queue {why} ({numbers}): groups would be trained twice. Restore all of the backup into a new "
            "directory; or keep these checkpoints, resume the run on an empty Redis, and give up what is missing: "
            "leeway queue accept RUN"
        )
