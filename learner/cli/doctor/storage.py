"""Checks the disks: writable, enough free space for checkpoints and versions, and fast enough."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from learner.cli.doctor.model import parameters
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, size, warn
from learner.cli.preflight.network import network
from learner.config import LearnerConfig
from learner.config.memory import adapter_count, checkpoint_bytes
from learner.config.workload import WIDTH

_SAMPLE_BYTES, _SAMPLE_S = 32 << 20, 1.0
_SLOW_S = 120.0
_FEWEST_INODES = 10_000
_RESERVED_BYTES = 1 << 30  # for logs and metrics


@dataclass(frozen=True)
class DiskNeed:
    """The most that will be in a directory at one time.

    Attributes:
        what: "checkpoint" or "version".
        path: the directory.
        each: bytes of one checkpoint or version.
        kept: how many there will be at most.
    """

    what: str
    path: Path
    each: int
    kept: int


def storage(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that each directory is writable, has the free space that retention needs, and is fast enough."""
    count = parameters(examined)
    if examined.learner is not None and count is not None:
        yield from _learner(examined.learner, count, _trained(examined, count))
    for worker in examined.workers:
        yield from _writable(f"{worker.name} state_dir", worker.state_dir)
        if examined.kind == "worker":
            yield from _writable(f"{worker.name} log_dir", worker.log_dir)
            if worker.cache_dir is not None:
                yield from _writable(f"{worker.name} cache_dir", worker.cache_dir)


def _trained(examined: ExaminedConfig, count: int) -> int:
    """Number of the parameters that are trained: the model's, or those of its adapters."""
    sizes, lora = network(examined), examined.learner.lora if examined.learner else None
    return count if lora is None or sizes is None else adapter_count(sizes, lora)


def _learner(learner: LearnerConfig, count: int, trained: int) -> Iterator[Finding]:
    checkpoint, publish = learner.checkpoint, learner.publish
    each = (trained if publish.form == "adapter" else count) * WIDTH[publish.weights_dtype]
    projects = learner.lr_control.projects_above is not None
    saved = checkpoint_bytes(trained, learner.dtype, averaged=publish.average > 0, projects=projects)
    needs = [
        DiskNeed("checkpoint", checkpoint.dir, saved, checkpoint.keep + 1),
        # Beyond publish.keep: one that is being written, one that a fleet still runs, and with deltas their full version.
        DiskNeed("version", publish.dir, each, publish.keep + 2 + (publish.full_every > 1)),
    ]
    unwritable = [
        finding for need in needs for finding in _writable(f"{need.what}s", need.path) if finding.state != "ok"
    ]
    yield from unwritable
    if unwritable:
        return
    for device in {_existing(need.path).stat().st_dev for need in needs}:
        yield from _free_space([need for need in needs if _existing(need.path).stat().st_dev == device])
    for need in needs:
        yield _speed(need)
    if publish.keep_every:
        every = publish.keep_every
        text = f"publish.keep_every = {every}: 1 of {every} versions ({size(each)}) is never removed"
        yield warn("disk", text, "remove old ones by hand, or set it to 0")


def _free_space(needs: list[DiskNeed]) -> Iterator[Finding]:
    directory = _existing(needs[0].path)
    free = shutil.disk_usage(directory).free
    wanted = sum(need.each * need.kept for need in needs) + _RESERVED_BYTES
    terms = " + ".join(f"{need.kept} {need.what}s of {size(need.each)}" for need in needs)
    text = f"{directory}: {size(free)} free; needed: {terms} (and 1 GB for logs)"
    fix = "free some, lower checkpoint.keep or publish.keep, or publish bfloat16"
    if free < wanted:
        yield fail("disk", text, fix)
    elif free < 1.5 * wanted:
        yield warn("disk", text, fix)
    else:
        yield ok("disk", text)
    inodes = os.statvfs(directory)
    if inodes.f_files and inodes.f_favail < _FEWEST_INODES:
        yield fail("disk", f"{directory}: {inodes.f_favail} inodes left", "remove small files there")


def _speed(need: DiskNeed) -> Finding:
    directory = _existing(need.path)
    try:
        rate = write_speed(directory)
    except OSError as error:
        return fail("disk speed", f"{directory}: cannot be written to: {error.strerror}", "free some space there")
    seconds = need.each / rate
    text = f"{directory}: {size(rate)}/s written and synced: a {need.what} of {size(need.each)} takes {seconds:.1f} s"
    if seconds > _SLOW_S:
        if need.what == "checkpoint":
            return warn(
                "disk speed", text, "use a faster disk, or raise checkpoint.every: the next save waits for this one"
            )
        return warn(
            "disk speed", text, "use a faster disk, or bfloat16 or deltas: no more versions than that are published"
        )
    return ok("disk speed", text)


def write_speed(directory: Path) -> float:
    """Measures a short sequential write, forced to disk; returns bytes per second. Raises OSError."""
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
    directory = _existing(path)
    probe = directory / f".leeway-doctor-{os.getpid()}"
    try:
        if directory != path and path.exists():
            raise NotADirectoryError(20, "Not a directory")
        probe.touch()
        probe.unlink()
    except OSError as error:
        yield fail("disk", f"{what}: {path}: {error.strerror}", f"let user {os.getuid()} write there")


def _existing(path: Path) -> Path:
    """The directory itself, or its nearest ancestor that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path
