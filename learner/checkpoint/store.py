"""What a checkpoint is on disk, which one a learner resumes from, and the check that it is undamaged.

A checkpoint is a directory ``step_00000050_e0003/`` (step and learner epoch) with the sharded model and optimizer and
``state.json``: what the checkpoint contains, the size and digest of every other file, and the SHA-256 of that content. A
learner resumes from the newest epoch's newest step, else from an older step, else from an older epoch: an epoch begins where
the surviving line of its predecessors ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from learner.queue import GroupRef
from learner.storage.digests import FileDigest
from runtime.digest import DigestError, algorithm_of
from runtime.errors import LeewayError
from runtime.version_format.file_check import ExpectedFile, faults_of

STATE = "state.json"
HEALTHY = "healthy"  # an empty file, made once training from this checkpoint has proved healthy
SCHEMA = 5
_NAME = re.compile(r"step_(\d+)_e(\d+)$")
_READERS = 8  # threads that hash files


class CheckpointError(LeewayError):
    """A checkpoint that cannot be used; the message names the path and what is wrong."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are not what was written; an older checkpoint may be used instead."""


@dataclass(frozen=True)
class CheckpointState:
    """Content of ``state.json``: everything in a checkpoint but the model and the optimizer.

    Attributes:
        step: optimizer steps that the weights have made.
        epoch: epoch of the learner that wrote the checkpoint.
        trained: groups in these weights that had not been committed to the queue when the checkpoint was saved.
        recent: groups in these weights that had been committed seconds before: a Redis that was killed may have forgotten it.
        contained: fleet -> number of its groups in these weights, over the whole run.
        extra: other state that a resumed run needs, equal on every rank; JSON values only.
        files: size and digest of every other file in the checkpoint, by name.
    """

    step: int
    epoch: int
    trained: list[GroupRef]
    recent: list[GroupRef] = field(default_factory=list)
    contained: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileDigest] = field(default_factory=dict)


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint that was newer than the one resumed from, and could not be used.

    Attributes:
        name: name of its directory.
        reason: what is wrong with it.
        step: optimizer steps in it.
    """

    name: str
    reason: str
    step: int


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a learner resumes from, and the newer ones that are damaged.

    Attributes:
        directory: path of the checkpoint.
        state: content of its state.json.
        damaged: newer checkpoints that were passed over, newest first.
    """

    directory: Path
    state: CheckpointState
    damaged: list[DamagedCheckpoint] = field(default_factory=list)

    @property
    def step(self) -> int:
        """Optimizer steps in the checkpoint."""
        return self.state.step


def name(step: int, epoch: int) -> str:
    """Directory name of a checkpoint, such as ``step_00000050_e0003``."""
    return f"step_{step:08d}_e{epoch:04d}"


def epoch_and_step(name: str) -> tuple[int, int]:
    """Epoch and step in a checkpoint's name. Checkpoints compare by this pair: a newer epoch is newer, whatever the step."""
    found = _NAME.match(name)
    assert found is not None
    return int(found.group(2)), int(found.group(1))


def is_healthy(directory: Path) -> bool:
    """Whether a checkpoint is marked healthy: training went on from it for a whole alarm window and no alarm was active."""
    return (directory / HEALTHY).exists()


def completed(root: Path) -> list[Path]:
    """Paths of the checkpoints that were saved completely (and so have their final names), oldest first."""
    return sorted(
        (path for path in root.glob("step_*") if _NAME.match(path.name) and path.is_dir()),
        key=lambda path: epoch_and_step(path.name),
    )


def completed_epoch(root: Path) -> int:
    """The newest epoch that has a completed checkpoint under ``root``; 0 if there is no checkpoint."""
    return max((epoch_and_step(directory.name)[0] for directory in completed(root)), default=0)


def latest(root: Path) -> ResumePoint | None:
    """Finds the newest undamaged checkpoint under ``root``, reading every byte of it; None if there is no checkpoint at all.

    Raises:
        CheckpointError: a checkpoint has another schema or an unknown digest algorithm; or there are checkpoints and all of
            them are damaged, which must not be mistaken for a fresh run.
    """
    damaged: list[DamagedCheckpoint] = []
    for directory in reversed(completed(root)):
        try:
            state = read_state(directory)
        except DamagedError as error:
            damaged.append(DamagedCheckpoint(directory.name, str(error), epoch_and_step(directory.name)[1]))
            continue
        try:
            verify(directory, state)
        except DamagedError as error:
            damaged.append(DamagedCheckpoint(directory.name, str(error), state.step))
            continue
        return ResumePoint(directory, state, damaged)
    if damaged:
        reasons = "; ".join(item.reason for item in damaged)
        raise CheckpointError(
            f"{root}: all {len(damaged)} checkpoints are damaged ({reasons}); move them away to start from the beginning"
        )
    return None


def read_state(directory: Path) -> CheckpointState:
    """Reads a checkpoint's state.json.

    Raises:
        DamagedError: it is missing, cannot be parsed, or does not match its SHA-256.
        CheckpointError: it has another schema.
    """
    path = directory / STATE
    try:
        content = json.loads(path.read_text())
        found = content.get("schema", content.get("state", {}).get("schema"))
        if found != SCHEMA and isinstance(found, int):
            raise CheckpointError(
                f"{directory}: the checkpoint's schema is {found}, this version of leeway reads {SCHEMA}: resume with the "
                "version that wrote it, or move the checkpoints away"
            )
        state = content["state"]
        if _digest(state) != content["sha256"]:
            raise DamagedError(f"{path}: damaged (its content does not match its SHA-256)")
        return CheckpointState(
            step=state["step"],
            epoch=state["epoch"],
            trained=[GroupRef(**ref) for ref in state["trained"]],
            recent=[GroupRef(**ref) for ref in state["recent"]],
            contained=state["contained"],
            extra=state["extra"],
            files={file: FileDigest(**entry) for file, entry in state["files"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def write_state(directory: Path, state: CheckpointState) -> None:
    """Writes ``state.json`` and makes it durable. Raises OSError."""
    content = {"schema": SCHEMA, **asdict(state)}
    with (directory / STATE).open("w") as file:
        json.dump({"state": content, "sha256": _digest(content)}, file)
        file.flush()
        os.fsync(file.fileno())


def verify(directory: Path, state: CheckpointState) -> None:
    """Reads every file of a checkpoint, several at a time, and compares sizes and digests.

    Raises:
        DamagedError: a file is missing or not what was written.
        CheckpointError: a digest's algorithm is not known.
    """
    for file, expected in state.files.items():
        try:
            algorithm_of(expected.digest)
        except DigestError as error:
            raise CheckpointError(f"{directory}: {file}: {error}") from error
    files = [ExpectedFile(file, expected.size, expected.digest) for file, expected in state.files.items()]
    if faults := faults_of(directory, files, _READERS):
        raise DamagedError(f"{directory}: {'; '.join(map(str, faults))}")


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
