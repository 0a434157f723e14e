"""Checks that the learner fits the memory of its GPUs, or on a CPU the machine's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from learner.cli.doctor import machine
from learner.cli.doctor.model import parameters
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, size, warn
from learner.cli.preflight.network import network
from learner.config.adapters import lora_violations
from learner.config.architectures import layout_violations
from learner.config.behaviour import cache_room, cached_versions
from learner.config.memory import RankMemory, memory_by_stage
from learner.config.workload import Workload
from runtime.memory import usable_memory

_SAFE = 0.9  # of a GPU's memory: the CUDA context, NCCL's buffers and gaps are not counted
_SAFE_HOST = 0.8
_GPU_FIX = (
    'raise learner.parallel.tensor, pipeline or context, set recompute = "full", or lower micro_batch_tokens to the longest '
    "sequence"
)


def memory(examined: ExaminedConfig) -> Iterator[Finding]:
    """Predicts the memory of a rank, and compares it with what is there."""
    learner, sizes = examined.learner, network(examined)
    if learner is None or sizes is None or list(layout_violations(sizes, learner.parallel)):
        return
    if list(lora_violations(sizes, learner.lora, learner.parallel)):
        return
    totals = machine.gpu_bytes()
    world = examined.world or learner.parallel.ranks
    device = _device(examined, totals)
    here = world if device == "cpu" or not totals else min(world, len(totals))
    work = Workload.of(learner, world, device, cache_room(usable_memory(), here))
    stages = memory_by_stage(sizes, work)
    yield from _ranks(stages, totals, device)
    if examined.kind == "run" or (totals and here == world):
        yield _host(stages, here, device)
    if work.versions:
        yield _cache(stages, cached_versions(learner.max_staleness))


def _device(examined: ExaminedConfig, totals: list[int]) -> Literal["cpu", "cuda"]:
    """Where the model will be; a large model is shown as on GPUs even if this machine has none."""
    return "cuda" if totals or (parameters(examined) or 0) > machine.MOST_PARAMETERS_ON_CPU else "cpu"


def _ranks(stages: list[RankMemory], totals: list[int], device: str) -> Iterator[Finding]:
    most = max(stages, key=lambda stage: stage.model)
    for stage in stages:
        where = f"a rank of stage {stage.stage + 1} of {len(stages)}" if len(stages) > 1 else "a rank"
        text = f"{where}: {_terms(vars(stage))}; at most {size(stage.model)} at once"
        if stage is not most or device == "cpu" or not totals:
            yield ok("memory", text)
            continue
        text += f", the smallest GPU has {size(min(totals))}"
        if stage.model > min(totals):
            yield fail("memory", text, _GPU_FIX)
        elif stage.model > _SAFE * min(totals):
            yield warn("memory", f"{text}, of which CUDA and NCCL need one or two GB", _GPU_FIX)
        else:
            yield ok("memory", text)


def _terms(values: Mapping[str, Any]) -> str:
    names = ("weights", "gradients", "optimizer", "average", "last_gradient", "activations", "logits", "update")
    shown = [name for name in (*names, "scoring", "gathered") if values[name]]
    return ", ".join(f"{name.replace('_', ' ')} {size(values[name])}" for name in shown)


def _host(stages: list[RankMemory], here: int, device: str) -> Finding:
    """Compares what all ranks on this machine need with its memory."""
    each = [stage.host + (stage.model if device == "cpu" else 0) for stage in stages]
    needed, there = sum(each) * here // len(stages), usable_memory()
    most = max(stages, key=lambda stage: stage.host)
    text = (
        f"{here} ranks: {size(needed)} of {size(there)}; of each rank {size(most.checkpoint)} for a checkpoint, "
        f"{size(most.publication)} for a version"
    )
    text += f", {size(most.reference)} for the frozen reference" if most.reference else ""
    text += f", {size(most.cache)} for cached versions" if most.cache else ""
    fix = "use more memory, or fewer ranks on a machine; engines and Redis need theirs too"
    if needed > there:
        return fail("host memory", text, fix)
    return warn("host memory", text, fix) if needed > _SAFE_HOST * there else ok("host memory", text)


def _cache(stages: list[RankMemory], wanted: int) -> Finding:
    """Says how many versions a rank holds in host memory, where log-probabilities are recomputed under earlier ones."""
    least = min(stages, key=lambda stage: stage.cached)
    text = f"{least.cached} of {wanted} versions of {size(least.version)} of each rank ({size(least.cache)})"
    if least.cached >= wanted:
        return ok("version cache", text)
    fix = "use more memory or fewer ranks on a machine, or set learner.behaviour.cache_bytes"
    return warn("version cache", f"{text}: the others are read from disk in every step that needs them", fix)
