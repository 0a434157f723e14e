"""Which checkpoint to go on from, and whether it is what was written.

A checkpoint is a directory ``step_00000050_e0003/`` (step and learner epoch) with the sharded model and optimizer and
``state.json``: what it contains, the size and digest of every other file, and the SHA-256 of itself. The newest epoch's come
first, then the older ones', each newest step first: an epoch begins where the surviving line of its predecessors ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from learner.queue import GroupRef
from learner.storage.digests import FileDigest
from runtime.digest import DigestError, algorithm_of, of_file
from runtime.errors import LeewayError

STATE = "state.json"
HEALTHY = "healthy"  # an empty file beside it, made later
SCHEMA = 3
_READABLE = (2, SCHEMA)  # before 3 files had a SHA-256
_NAME = re.compile(r"step_(\d+)(?:_e(\d+))?$")
_READERS = 8  # threads: hashing releases the interpreter lock


class CheckpointError(LeewayError):
    """A checkpoint that cannot be used; the message names the path and what is wrong."""


class DamagedError(CheckpointError):
    """It is not what was written: the one before it may be used."""


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint says besides weights.

    Attributes:
        step: optimizer steps in it.
        epoch: of the learner that wrote it.
        trained: groups in these weights that had not been committed when it was saved.
        recent: groups in these weights that had been, in the last seconds: a Redis that was killed may have forgotten it.
        extra: what else must survive, the same on every rank; JSON values only.
        files: every other file.
    """

    step: int
    epoch: int
    trained: list[GroupRef]
    recent: list[GroupRef] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FileDigest] = field(default_factory=dict)


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A newer checkpoint that could not be used. ``trained``: groups of its own; None when not even that is readable."""

    name: str
    reason: str
    step: int
    trained: list[GroupRef] | None


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that is whole, and the newer ones that are not."""

    directory: Path
    state: CheckpointState
    damaged: list[DamagedCheckpoint] = field(default_factory=list)

    @property
    def step(self) -> int:
        return self.state.step

    def lost(self) -> tuple[list[GroupRef], bool]:
        """Groups that only the damaged checkpoints contain, and whether those are all there are."""
        known = [damaged.trained for damaged in self.damaged if damaged.trained is not None]
        return [ref for refs in known for ref in refs], len(known) == len(self.damaged)


def name(step: int, epoch: int) -> str:
    """``step_00000050_e0003``."""
    return f"step_{step:08d}_e{epoch:04d}"


def order_of(name: str) -> tuple[int, int]:
    """Epoch and step of a checkpoint's name: their order. (Names of before they had an epoch: 0.)"""
    found = _NAME.match(name)
    assert found is not None
    return int(found.group(2) or 0), int(found.group(1))


def is_healthy(directory: Path) -> bool:
    """Whether a checkpoint is marked: training went on from it for a while and no alarm was raised (learner.checkpoint)."""
    return (directory / HEALTHY).exists()


def completed(root: Path) -> list[Path]:
    """Checkpoints under their final names, oldest first."""
    return sorted(
        (path for path in root.glob("step_*") if _NAME.match(path.name) and path.is_dir()),
        key=lambda path: order_of(path.name),
    )


def completed_epoch(root: Path) -> int:
    """The newest epoch of a checkpoint under ``root``; 0 for none."""
    return max((order_of(directory.name)[0] for directory in completed(root)), default=0)


def latest(root: Path) -> ResumePoint | None:
    """The newest checkpoint under ``root`` that is whole, every byte of it read; None when there is no checkpoint at all.

    Raises:
        CheckpointError: of another schema; or there are some and none is whole: never mistaken for a fresh run.
    """
    damaged: list[DamagedCheckpoint] = []
    for directory in reversed(completed(root)):
        try:
            state = read_state(directory)
        except DamagedError as error:
            damaged.append(DamagedCheckpoint(directory.name, str(error), order_of(directory.name)[1], None))
            continue
        try:
            verify(directory, state)
        except DamagedError as error:
            damaged.append(DamagedCheckpoint(directory.name, str(error), state.step, state.trained))
            continue
        return ResumePoint(directory, state, damaged)
    if damaged:
        reasons = "; ".join(item.reason for item in damaged)
        raise CheckpointError(
            f"{root}: none of {len(damaged)} checkpoints is whole ({reasons}); move them away to start from the beginning"
        )
    return None


def read_state(directory: Path) -> CheckpointState:
    """What a checkpoint contains. Raises DamagedError, or CheckpointError for another schema."""
    path = directory / STATE
    try:
        content = json.loads(path.read_text())
        found = content.get("schema", content.get("state", {}).get("schema"))
        if found not in _READABLE and isinstance(found, int):
            known = " or ".join(map(str, _READABLE))
            raise CheckpointError(f"{directory}: schema {found} is not {known}: written by another version of leeway")
        state = content["state"]
        if _digest(state) != content["sha256"]:
            raise DamagedError(f"{path}: damaged (its content does not match its SHA-256)")
        return CheckpointState(
            step=state["step"],
            epoch=state["epoch"],
            trained=[GroupRef(**ref) for ref in state["trained"]],
            recent=[GroupRef(**ref) for ref in state["recent"]],
            extra=state["extra"],
            files={file: _file_digest(entry) for file, entry in state["files"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def write_state(directory: Path, state: CheckpointState) -> None:
    """Writes and syncs ``state.json``. Raises OSError."""
    content = {"schema": SCHEMA, **asdict(state)}
    with (directory / STATE).open("w") as file:
        json.dump({"state": content, "sha256": _digest(content)}, file)
        file.flush()
        os.fsync(file.fileno())


def verify(directory: Path, state: CheckpointState) -> None:
    """Reads every byte, several files at a time. Raises DamagedError, or CheckpointError for an unknown algorithm."""
    for file, expected in state.files.items():
        try:
            algorithm_of(expected.digest)
        except DigestError as error:
            raise CheckpointError(f"{directory}: {file}: {error}") from error
    with ThreadPoolExecutor(_READERS) as pool:
        wrong = [reason for reason in pool.map(lambda item: _check(directory, *item), state.files.items()) if reason]
    if wrong:
        raise DamagedError(f"{directory}: {'; '.join(wrong)}")


def _check(directory: Path, file: str, expected: FileDigest) -> str:
    try:
        size = (directory / file).stat().st_size
        if size != expected.size:
            return f"{file} has {size} bytes, not {expected.size}"
        _, digest = of_file(directory / file, algorithm_of(expected.digest))
        if digest != expected.digest:
            return f"{file} does not match its digest"
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"
    return ""


def _file_digest(entry: dict[str, Any]) -> FileDigest:
    return FileDigest(entry["size"], entry["digest"] if "digest" in entry else f"sha256:{entry['sha256']}")


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
