"""The instant of a backup: what Redis says, and the checkpoint that belongs to it.

Which order is safe? Let T be the instant at which dump.lua reads Redis, and C the newest complete checkpoint at T.

- Every group that Redis counts as trained at T is in C: a group is committed only after a checkpoint that contains it is
  durable, and later checkpoints contain what earlier ones do. With an older checkpoint these groups would be in no weights,
  and their payloads are gone.
- Every group that is in C and that Redis still has at T is named in C: the saver begins a checkpoint only after the one
  before is committed, or carries its groups over, so C names all that were not committed when it began. The learner that
  resumes commits them. That is what happens after a crash between checkpoint and commit. With a checkpoint that was begun
  after T the groups between would be named nowhere, and be trained twice; the witness in it would refuse this Redis if it is
  more than seconds newer.

So neither "Redis first" nor "checkpoints first" is enough: it has to be C. It is found by looking at the directory before
and after T: if the newest checkpoint is the same, it is C; otherwise Redis is read again, which takes milliseconds, while
checkpoints are seconds apart at least. The files of C are opened before anything is copied, and so are those of the versions,
whose manifests are read then too: what retention removes while terabytes are copied can still be read (on a network file
system only if the learner is on the same machine, or the server keeps it; otherwise the copy fails, and no backup is
complete).

Groups that gateways accept while the dump is made are accepted before T or after it: append.lua is one script, and so is
dump.lua. Those before T are in the dump with their payloads, which nobody rewrites: most are read before T, the last ones
after it. If one of these is gone (its group has expired, or was trained since), everything but payloads is read again. Those
after T are not in the backup, like everything that happens after it.

What must not be behind is copied before T: prompt cursors. What must not be missing is copied after T: metrics, with
the learner's record of trained groups, which may say more than the checkpoint contains, as after any crash.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from learner.backup.errors import BackupError
from learner.backup.manifest import CHECKPOINTS, METRICS, WEIGHTS
from learner.backup.opened_file import OpenedFile, opened_tree
from learner.backup.queue_parts import QueueParts
from learner.backup.run_sources import RunSources, needed_versions
from learner.checkpoint.store import CheckpointState, completed, is_healthy, read_state
from learner.publish.catalog import CatalogError, read_manifest
from learner.queue.dump import QueueDump, QueueSnapshot
from learner.queue.witness import MOVED, Witness
from leeway.v1.manifest_pb2 import ManifestFile
from runtime.version_format.names import version_name

_TRIES = 10


@dataclass(frozen=True)
class Instant:
    """What belongs together.

    Attributes:
        snapshot: what Redis said.
        checkpoint: name of the checkpoint that belongs to it.
        state: its state.json.
        states: name of every checkpoint that is copied -> its state.json.
        versions: numbers of the versions that are copied.
        listed: number of each of them -> the files that its manifest names, or why that cannot be read.
        opened: the files to copy.
    """

    snapshot: QueueSnapshot
    checkpoint: str
    state: CheckpointState
    states: dict[str, CheckpointState]
    versions: set[int]
    listed: dict[int, list[ManifestFile] | str]
    opened: list[OpenedFile]


def read_instant(
    sources: RunSources, best: int | None, dump: QueueDump, ahead: QueueParts, stack: contextlib.ExitStack
) -> Instant:
    """Reads Redis, and opens the files that belong to what it says.

    Args:
        sources: where the run is.
        best: number of its best version, if there is one.
        dump: reads Redis.
        ahead: takes what Redis has and cannot change any more.
        stack: closes the files.

    Raises:
        BackupError: there is no checkpoint yet, the queue is halted or behind the checkpoint, or all changes all the time.
        QueueError, CheckpointError, OSError: Redis or a file cannot be read.
    """
    ahead.add(dump.ahead())
    for _ in range(_TRIES):
        before = completed(sources.checkpoints)[-1:]
        if not before:
            raise BackupError(
                f"{sources.checkpoints}: there is no complete checkpoint yet: nothing could go on from a backup"
            )
        snapshot = dump.snapshot()
        if snapshot.halt is not None and not (sources.final and snapshot.halt.reason == MOVED):
            raise BackupError(f"not backed up: {snapshot.halt.describe(sources.queue.run)}")
        ahead.add(dump.late(snapshot))
        if dump.has_all(snapshot) and completed(sources.checkpoints)[-1:] == before:
            with contextlib.suppress(FileNotFoundError):  # retention was faster
                return _opened(sources, best, snapshot, before[0], stack)
    raise BackupError(
        f"{sources.checkpoints}: checkpoints or groups come and go too fast to be read together ({_TRIES} attempts): "
        "try again"
    )


def _opened(
    sources: RunSources, best: int | None, snapshot: QueueSnapshot, newest: Path, stack: contextlib.ExitStack
) -> Instant:
    state = read_state(newest)
    _require_not_behind(snapshot, newest, state)
    healthy = [directory for directory in completed(sources.checkpoints) if is_healthy(directory)]
    chosen = {directory.name: directory for directory in (newest, *healthy[-1:])}
    states = {name: read_state(directory) for name, directory in chosen.items()}
    versions = needed_versions(sources.weights, snapshot, state, best)
    listed = {version: _listed(sources.weights, version) for version in versions}
    with contextlib.ExitStack() as attempt:
        opened: list[OpenedFile] = []
        for name, directory in chosen.items():
            opened += [attempt.enter_context(file) for file in opened_tree(directory, f"{CHECKPOINTS}{name}/")]
        for version in sorted(versions):
            directory = version_name(version)
            opened += [
                attempt.enter_context(file)
                for file in opened_tree(sources.weights / directory, f"{WEIGHTS}{directory}/")
            ]
        opened += [attempt.enter_context(file) for file in _records(sources)]
        stack.enter_context(attempt.pop_all())
    return Instant(snapshot, newest.name, state, states, versions, listed, opened)


def _listed(weights: Path, version: int) -> list[ManifestFile] | str:
    """Returns the files of a version, or why its manifest cannot be read: retention may remove it while it is copied."""
    try:
        return list(read_manifest(weights, version).files)
    except CatalogError as error:
        return str(error)


def _records(sources: RunSources) -> list[OpenedFile]:
    """Opens what has no instant of its own: the request of a rollback, and the metrics."""
    requests = sources.checkpoints.glob("rollback.json")
    lines = sources.metrics.glob("*.jsonl*")
    return [
        *(OpenedFile(CHECKPOINTS + path.name, path) for path in requests),
        *(
            OpenedFile(METRICS + path.name, path, lines=path.suffix == ".jsonl")
            for path in sorted(lines)
            if path.is_file()
        ),
    ]


def _require_not_behind(snapshot: QueueSnapshot, newest: Path, state: CheckpointState) -> None:
    seen = state.extra.get("witness")
    if seen is not None and snapshot.witness.nonce == seen["nonce"] and snapshot.witness.clock < Witness.of(seen).floor:
        raise BackupError(
            f"not backed up: Redis has older data than {newest} has seen: look at it with leeway queue status RUN"
        )
