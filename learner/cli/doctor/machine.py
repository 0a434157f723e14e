"""Checks the machine itself: GPUs and their driver, file descriptors and shared memory."""

from __future__ import annotations

import itertools
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib import metadata

from learner.cli.doctor.model import parameters
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, size, warn
from learner.config.gpu_signs import signs_in_settings

_NVIDIA_SMI_S = 5.0
MOST_PARAMETERS_ON_CPU = 100_000_000
_TENSOR_OPTIONS = ("--tp", "--tp-size", "--tensor-parallel-size")
_DATA_OPTIONS = ("--dp", "--dp-size", "--data-parallel-size")
_FEWEST_DESCRIPTORS = 4096
# Oldest driver that runs a major release of CUDA; torch 2.13 is built for CUDA 13 unless its version says otherwise.
_OLDEST_DRIVER = {12: 525, 13: 580}
_USUAL_CUDA = 13
_LEAST_SHARED_BYTES = 1 << 30


def machine(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that there are enough GPUs, that the learner's CUDA runs on them, and room for descriptors and shared memory."""
    if examined.learner is not None or examined.workers:
        yield from _gpus(examined)
    if examined.learner is not None:
        yield from _driver()
    yield from _descriptors(examined)
    if examined.learner is not None or any(not worker.engine.urls for worker in examined.workers):
        yield from _shared_memory()


def gpus() -> list[str]:
    """The machine's GPUs, one line for each as nvidia-smi prints it; empty without a driver."""
    return [line for line in _nvidia_smi("-L") if line.startswith("GPU ")]


def gpu_bytes() -> list[int]:
    """Memory of each of the machine's GPUs; empty without a driver."""
    listed = _nvidia_smi("--query-gpu=memory.total", "--format=csv,noheader,nounits")
    return [int(line) << 20 for line in listed if line.strip().isdecimal()]


def driver() -> str:
    """Version of the machine's NVIDIA driver, such as "580.95.05"; "" without one."""
    return next((line.strip() for line in _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")), "")


def torch_build() -> str:
    """Version of this environment's torch, whose end may say what it is built for, such as "2.13.0+cu126"; "" without it."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _nvidia_smi(*arguments: str) -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=_NVIDIA_SMI_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.splitlines()


def _gpus(examined: ExaminedConfig) -> Iterator[Finding]:
    available = len(gpus())
    wanted = sum(engine_gpus(worker.engine.arguments) * worker.engine.count for worker in examined.workers
                 if worker.engine.device == "cuda" and not worker.engine.urls)  # fmt: skip
    learner = examined.learner
    ranks = 0
    if learner is not None:
        ranks = examined.world or learner.parallel.ranks
    if not available:
        count = parameters(examined) or 0
        if wanted:
            text = f"engines need {wanted}, nvidia-smi lists none"
            yield fail("gpus", text, 'use a machine with GPUs, or set engine.device = "cpu"')
        elif count > MOST_PARAMETERS_ON_CPU:
            yield fail("gpus", f"none, for a model of {count:,} parameters", "use a machine with GPUs")
        elif learner is not None and (signs := signs_in_settings(learner)):
            text = f"none: the learner runs on the CPU, though {' and '.join(signs)} only pays on a GPU"
            yield warn("gpus", text, "use a machine with GPUs, or leave these settings out")
        else:
            yield ok("gpus", f"none: {'the learner' if learner else 'everything'} runs on {os.cpu_count()} CPU cores")
        return
    text = f"{available}, for {ranks} learner ranks; engines need {wanted}"
    if learner is not None and ranks > available and examined.kind == "run":
        yield fail("gpus", text, "lower learner.processes or the sizes in learner.parallel")
    elif ranks + wanted > available:
        yield warn("gpus", text, "set CUDA_VISIBLE_DEVICES and --mem-fraction-static where they share a GPU")
    else:
        yield ok("gpus", text)


def _driver() -> Iterator[Finding]:
    """Compares the driver with the learner's CUDA: where it is too old, torch finds no GPU and would train on the CPU."""
    version, torch = driver(), torch_build()
    major = version.partition(".")[0]
    if not major.isdecimal():
        return
    if torch.endswith("+cpu"):
        text = f"NVIDIA {version}, but torch {torch} is built without CUDA: the learner runs on the CPU"
        yield warn("driver", text, "install a torch that is built for CUDA")
        return
    built = re.search(r"\+cu(\d+)\d$", torch)
    cuda = int(built.group(1)) if built else _USUAL_CUDA
    oldest = _OLDEST_DRIVER.get(cuda, 0)
    if int(major) < oldest:
        text = f"NVIDIA {version}; the learner's CUDA {cuda} needs {oldest} or newer"
        yield fail("driver", text, f"install driver {oldest} or newer: with this one torch finds no GPU")
    else:
        yield ok("driver", f"NVIDIA {version}, for CUDA {cuda}")


def engine_gpus(arguments: Sequence[str]) -> int:
    """Number of GPUs that one SGLang server uses: its tensor-parallel times its data-parallel size.

    Args:
        arguments: the server's command-line arguments; an option may be given as two arguments or as ``option=value``.
    """
    return _option(arguments, _TENSOR_OPTIONS) * _option(arguments, _DATA_OPTIONS)


def _option(arguments: Sequence[str], names: Sequence[str]) -> int:
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for name, value in itertools.pairwise(words):
        if name in names and value.isdecimal():
            return int(value)
    return 1


def _descriptors(examined: ExaminedConfig) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FEWEST_DESCRIPTORS
    if examined.gateway is not None:
        needed = max(needed, 2 * examined.gateway.connections.max_streams)  # half for sockets, the rest for all else
    if soft != resource.RLIM_INFINITY and soft < needed:
        text = f"at most {soft} open files (hard limit {hard})"
        yield warn("descriptors", text, f"ulimit -n {needed}, or LimitNOFILE of the service")
    else:
        yield ok("descriptors", f"at most {soft} open files")


def _shared_memory() -> Iterator[Finding]:
    try:
        mounted = os.statvfs("/dev/shm")
    except OSError as error:
        yield warn("shared memory", f"/dev/shm: {error.strerror}", "mount a tmpfs there: NCCL and engines need it")
        return
    total = mounted.f_frsize * mounted.f_blocks
    if total < _LEAST_SHARED_BYTES:
        text = f"/dev/shm has {size(total)}"
        yield warn("shared memory", text, "an emptyDir with medium: Memory, or --shm-size: NCCL and engines need it")
    else:
        yield ok("shared memory", f"/dev/shm has {size(total)}, {size(mounted.f_frsize * mounted.f_bavail)} free")
