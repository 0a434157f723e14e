"""Learners that do not fit their GPUs, or the memory that this process may use."""

from __future__ import annotations

import pytest

from learner.cli.doctor import machine, memory
from tests.tools.doctor_site import Site, bad, examined_run


@pytest.mark.parametrize(("gpu_bytes", "state"), [(100 << 20, "fail"), (1 << 30, "warn"), (80 << 30, "")])
def test_a_learner_against_its_gpus(site: Site, monkeypatch: pytest.MonkeyPatch, gpu_bytes: int, state: str):
    learner, sizes = site.read("learner").learner, memory.network(site.read("learner"))
    assert learner is not None
    assert sizes is not None
    whole = memory.memory_by_stage(sizes, memory.Workload.of(learner, 1, "cuda", 0))[0].model
    total = whole + 1 if state == "warn" else gpu_bytes
    monkeypatch.setattr(machine, "gpu_bytes", lambda: [total, total + (1 << 30)])
    found = bad(memory.memory(site.read("learner")))
    assert [line.split(":")[0] for line in found] == ([f"{state} memory"] if state else [])


def test_each_stage_is_shown_and_what_it_consists_of(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpu_bytes", list)
    plain = examined_run(site, "learner.objective.name=asympo")
    first, last, host = [one.found for one in memory.memory(plain)]
    assert first.startswith(
        "a rank of stage 1 of 2: weights 595.2 kB, gradients 595.2 kB, optimizer 1.2 MB, activations "
    )
    assert "logits" in last
    assert host.startswith("4 ranks: ")
    assert "reference" not in host
    *_, anchored = memory.memory(examined_run(site, "learner.objective.name=asympo", "learner.objective.kl_coef=0.1"))
    assert anchored.found.endswith(" for a version, 595.7 kB for the frozen reference")


def test_the_average_of_the_weights_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpu_bytes", list)
    averaged = (
        "learner.publish.average=0.9",
        "learner.processes=8",
    )  # two data ranks share it; the default averages too
    found = next(memory.memory(examined_run(site, *averaged))).found
    assert "optimizer 595.2 kB, average 297.6 kB, activations " in found
    assert "gathered 595.2 kB; at most " in found
    assert next(memory.memory(examined_run(site, averaged[1]))).found == found
    off = examined_run(site, "learner.publish.average=0", averaged[1])
    assert "average" not in next(memory.memory(off)).found


def test_a_machine_or_a_container_that_is_too_small(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpu_bytes", list)
    monkeypatch.setattr(memory, "usable_memory", lambda: 100_000_000)
    (found,) = bad(memory.memory(examined_run(site)))
    assert found.startswith("fail host memory: 4 ranks: ")
    assert "of 100.0 MB" in found


@pytest.mark.parametrize(("usable", "line"), [(1 << 40, "ok"), (40_000_000, "warn")])
def test_versions_that_the_cache_does_not_hold(site: Site, monkeypatch: pytest.MonkeyPatch, usable: int, line: str):
    monkeypatch.setattr(machine, "gpu_bytes", list)
    monkeypatch.setattr(memory, "usable_memory", lambda: usable)
    assert not [one for one in memory.memory(examined_run(site)) if one.check == "version cache"]
    found = memory.memory(examined_run(site, "learner.objective.name=grpo"))
    (cache,) = [one for one in found if one.check == "version cache"]
    assert cache.state == line
    held = 6 if line == "ok" else 4  # of 595 kB each: a quarter of the memory, for four ranks, is 2.5 MB
    assert cache.found.startswith(f"{held} of 6 versions of 595.2 kB of each rank ")
    assert ("read from disk" in cache.found) == (line == "warn")


def test_a_layout_that_does_not_fit_the_model_is_the_models_finding(site: Site):
    assert list(memory.memory(examined_run(site, "learner.parallel.tensor=3"))) == []
