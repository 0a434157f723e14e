"""GPUs against the layout; the driver; file descriptors and shared memory."""

from __future__ import annotations

import json
from collections import namedtuple
from importlib import metadata

import pytest

from learner.cli.doctor import machine
from tests.tools.doctor_site import Site, bad, examined_run


@pytest.mark.parametrize(
    ("gpus", "arguments", "state"),
    [
        (0, [], "fail"),
        (1, [], "fail"),
        (4, [], "warn"),
        (5, [], ""),
        (5, ["--tp-size", "2"], "warn"),
        (6, ["--tp=2"], ""),
    ],
)
def test_gpus_against_the_layout(site: Site, monkeypatch: pytest.MonkeyPatch, gpus: int, arguments, state: str):
    monkeypatch.setattr(machine, "gpus", lambda: [f"GPU {n}: x" for n in range(gpus)])
    cuda = ["rollout.engine.device=cuda", f"rollout.engine.arguments={json.dumps(arguments)}"]
    found = [one for one in bad(machine.machine(examined_run(site, *cuda))) if " gpus:" in one]
    assert [one.split()[0] for one in found] == ([state] if state else [])


def test_a_large_model_without_gpus(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(machine, "parameters", lambda _: 8_000_000_000)
    assert "8,000,000,000 parameters" in bad(machine.machine(site.read("learner")))[0]


def test_settings_for_a_gpu_without_one(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(machine, "parameters", lambda _: 1000)
    monkeypatch.setattr(machine, "signs_in_settings", lambda _: ['dtype = "bfloat16"'])
    (found,) = [one for one in bad(machine.machine(site.read("learner"))) if " gpus:" in one]
    assert found.split()[0] == "warn"
    assert 'the learner runs on the CPU, though dtype = "bfloat16" only pays on a GPU' in found


@pytest.mark.parametrize(
    ("driver", "torch", "found"),
    [
        ("580.95.05", "2.13.0a0+6e5d1f7.nv26.07", "ok"),
        ("590.1", "2.13.0+cu130", "ok"),
        ("575.57.08", "2.13.0a0+6e5d1f7.nv26.07", "fail"),
        ("575.57.08", "2.13.0", "fail"),
        ("575.57.08", None, "fail"),
        ("575.57.08", "2.13.0+cu130", "fail"),
        ("575.57.08", "2.13.0+cu126", "ok"),
        ("470.1", "2.13.0+cu126", "fail"),
        ("580.95.05", "2.13.0+cpu", "warn"),
        ("", "2.13.0+cu130", ""),
        ("[N/A]", "2.13.0+cu130", ""),
    ],
)
def test_the_driver_runs_the_learners_cuda(
    site: Site, monkeypatch: pytest.MonkeyPatch, driver: str, torch: str | None, found: str
):
    def version(_: str) -> str:
        if torch is None:
            raise metadata.PackageNotFoundError
        return torch

    monkeypatch.setattr(machine.metadata, "version", version)
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *words: [driver] if "driver" in words[0] and driver else [])
    (line, *_) = [*(one for one in machine.machine(site.read("learner")) if one.check == "driver"), None]
    assert (line.state if line else "") == found
    if line and found == "fail":
        assert driver in line.found
        assert "or newer" in line.fix


def test_few_descriptors_and_little_shared_memory(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (1024, 4096))
    small = namedtuple("_Room", "f_frsize f_blocks f_bavail")(4096, 16_384, 16_384)
    monkeypatch.setattr(machine.os, "statvfs", lambda _: small)
    found = bad(machine.machine(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ["warn descriptors", "warn shared memory"]
