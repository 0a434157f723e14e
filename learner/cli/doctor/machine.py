"""The machine itself: GPUs, descriptors, shared memory."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from learner.cli.doctor.finding import Finding, fail, ok, size, warn
from learner.cli.doctor.model import parameters
from learner.cli.doctor.subject import Subject

_ASK_S = 5.0
_LARGE = 100_000_000  # parameters; more are no work for a CPU
_TENSOR = ("--tp", "--tp-size", "--tensor-parallel-size")
_DATA = ("--dp", "--dp-size", "--data-parallel-size")
_LEAST_FILES = 4096
_LEAST_SHARED = 1 << 30


def machine(subject: Subject) -> Iterator[Finding]:
    """GPUs enough for the layout, descriptors and shared memory enough for many connections and ranks."""
    if subject.learner is not None or subject.workers:
        yield from _gpus(subject)
    yield from _descriptors(subject)
    if subject.learner is not None or any(not worker.engine.urls for worker in subject.workers):
        yield from _shared_memory()


def gpus() -> list[str]:
    """One line per GPU, as nvidia-smi lists them; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]


def _gpus(subject: Subject) -> Iterator[Finding]:
    there = len(gpus())
    wanted = sum(engine_gpus(worker.engine.arguments) * worker.engine.count for worker in subject.workers
                 if worker.engine.device == "cuda" and not worker.engine.urls)  # fmt: skip
    learner = subject.learner
    ranks = 0
    if learner is not None:
        ranks = subject.world or learner.parallel.ranks
    if not there:
        count = parameters(subject) or 0
        if wanted:
            yield fail(
                "gpus", f"engines want {wanted}, nvidia-smi lists none", 'a machine with GPUs, or engine.device = "cpu"'
            )
        elif count > _LARGE:
            yield fail("gpus", f"none, for {count:,} parameters", "a machine with GPUs")
        else:
            yield ok("gpus", f"none: {'the learner' if learner else 'everything'} runs on {os.cpu_count()} CPU cores")
        return
    if learner is not None and ranks > there and subject.kind == "run":
        yield fail("gpus", f"{there}, and {ranks} learner ranks", "smaller learner.processes or parallel")
    elif ranks + wanted > there:
        text = f"{there}, for {ranks} learner ranks and {wanted} of engines"
        yield warn("gpus", text, "set CUDA_VISIBLE_DEVICES and --mem-fraction-static where they share one")
    else:
        yield ok("gpus", f"{there}, for {ranks} learner ranks and {wanted} of engines")


def engine_gpus(arguments: Sequence[str]) -> int:
    """How many GPUs one SGLang server takes: tensor times data parallel size."""
    return _option(arguments, _TENSOR) * _option(arguments, _DATA)


def _option(arguments: Sequence[str], names: Sequence[str]) -> int:
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for name, value in itertools.pairwise(words):
        if name in names and value.isdecimal():
            return int(value)
    return 1


def _descriptors(subject: Subject) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _LEAST_FILES
    if subject.gateway is not None:
        needed = max(needed, 2 * subject.gateway.connections.max_streams)  # sockets, and room for what else it holds
    if soft != resource.RLIM_INFINITY and soft < needed:
        text = f"at most {soft} open files (hard limit {hard})"
        yield warn("descriptors", text, f"ulimit -n {needed}, or LimitNOFILE of the service")
    else:
        yield ok("descriptors", f"at most {soft} open files")


def _shared_memory() -> Iterator[Finding]:
    try:
        room = os.statvfs("/dev/shm")
    except OSError as error:
        yield warn("shared memory", f"/dev/shm: {error.strerror}", "mount a tmpfs there: NCCL and engines need it")
        return
    total = room.f_frsize * room.f_blocks
    if total < _LEAST_SHARED:
        text = f"/dev/shm has {size(total)}"
        yield warn("shared memory", text, "an emptyDir with medium: Memory, or --shm-size: NCCL and engines need it")
    else:
        yield ok("shared memory", f"/dev/shm has {size(total)}, {size(room.f_frsize * room.f_bavail)} free")
