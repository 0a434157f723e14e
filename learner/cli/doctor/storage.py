"""Room for checkpoints and versions, and how long writing one takes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from learner.cli.doctor.finding import Finding, fail, ok, size, warn
from learner.cli.doctor.model import parameters
from learner.cli.doctor.subject import Subject
from learner.config import LearnerConfig

_CHECKPOINT_BYTES = 16  # per parameter: weights, Adam's two moments and the float32 copy they move
_PUBLISHED_BYTES = {"float32": 4, "bfloat16": 2}
_SAMPLE_BYTES, _SAMPLE_S = 32 << 20, 1.0
_SLOW_S = 120.0
_LEAST_FILES = 10_000
_RESERVE = 1 << 30  # for logs and metrics


@dataclass(frozen=True)
class DiskNeed:
    """What a directory will hold at most, in bytes: ``kept`` files of ``each``."""

    what: str
    path: Path
    each: int
    kept: int


def storage(subject: Subject) -> Iterator[Finding]:
    """Each directory can be written, has the room that retention needs, and is fast enough."""
    count = parameters(subject)
    if subject.learner is not None and count is not None:
        yield from _learner(subject.learner, count)
    for worker in subject.workers:
        yield from _writable(f"{worker.name} state_dir", worker.state_dir)
        if subject.kind == "worker":
            yield from _writable(f"{worker.name} log_dir", worker.log_dir)
            if worker.cache_dir is not None:
                yield from _writable(f"{worker.name} cache_dir", worker.cache_dir)


def _learner(learner: LearnerConfig, count: int) -> Iterator[Finding]:
    checkpoint, publish = learner.checkpoint, learner.publish
    each = count * _PUBLISHED_BYTES[publish.dtype]
    needs = [
        DiskNeed("checkpoint", checkpoint.dir, count * _CHECKPOINT_BYTES, checkpoint.keep + 1),
        # One is being written, one is still run by a fleet, and deltas keep the whole versions they start from.
        DiskNeed("version", publish.dir, each, publish.keep + 2 + (publish.full_every > 1)),
    ]
    unwritable = [
        finding for need in needs for finding in _writable(f"{need.what}s", need.path) if finding.state != "ok"
    ]
    yield from unwritable
    if unwritable:
        return
    for device in {_existing(need.path).stat().st_dev for need in needs}:
        yield from _room([need for need in needs if _existing(need.path).stat().st_dev == device])
    for need in needs:
        yield _speed(need)
    if publish.keep_every:
        text = f"publish.keep_every = {publish.keep_every}: {size(each)} more every {publish.keep_every} versions, for good"
        yield warn("disk", text, "remove old ones by hand, or set it to 0")


def _room(needs: list[DiskNeed]) -> Iterator[Finding]:
    place = _existing(needs[0].path)
    free = shutil.disk_usage(place).free
    wanted = sum(need.each * need.kept for need in needs) + _RESERVE
    parts = " + ".join(f"{need.kept} {need.what}s of {size(need.each)}" for need in needs)
    text = f"{place}: {size(free)} free, {parts} (and 1 GB for logs)"
    fix = "free some, keep fewer (checkpoint.keep, publish.keep), or publish bfloat16"
    if free < wanted:
        yield fail("disk", text, fix)
    elif free < 1.5 * wanted:
        yield warn("disk", text, fix)
    else:
        yield ok("disk", text)
    files = os.statvfs(place)
    if files.f_files and files.f_favail < _LEAST_FILES:
        yield fail("disk", f"{place}: {files.f_favail} inodes left", "remove small files there")


def _speed(need: DiskNeed) -> Finding:
    place = _existing(need.path)
    rate = write_speed(place)
    seconds = need.each / rate
    text = f"{place}: {size(rate)}/s written and synced: a {need.what} of {size(need.each)} takes {seconds:.1f} s"
    if seconds > _SLOW_S:
        every = "checkpoint.every" if need.what == "checkpoint" else "publish.every"
        return warn("disk speed", text, f"a faster disk, or a larger {every}: the next one waits for the one before it")
    return ok("disk speed", text)


def write_speed(directory: Path) -> float:
    """Bytes per second of a short sequential write, forced to disk."""
    block, written = os.urandom(1 << 20), 0
    path = directory / f".leeway-doctor-{os.getpid()}"
    started = time.monotonic()
    try:
        with path.open("wb") as file:
            while written < _SAMPLE_BYTES and time.monotonic() - started < _SAMPLE_S:
                written += file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return written / max(time.monotonic() - started, 1e-6)
    finally:
        path.unlink(missing_ok=True)


def _writable(what: str, path: Path) -> Iterator[Finding]:
    place = _existing(path)
    probe = place / f".leeway-doctor-{os.getpid()}"
    try:
        if place != path and path.exists():
            raise NotADirectoryError(20, "Not a directory")
        probe.touch()
        probe.unlink()
    except OSError as error:
        yield fail("disk", f"{what}: {path}: {error.strerror}", f"user {os.getuid()} must be able to write there")


def _existing(path: Path) -> Path:
    """The directory itself, or the nearest above it that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path
