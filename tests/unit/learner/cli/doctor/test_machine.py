"""GPUs against the layout; file descriptors and shared memory."""

from __future__ import annotations

import json
from collections import namedtuple

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


def test_few_descriptors_and_little_shared_memory(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (1024, 4096))
    small = namedtuple("_Room", "f_frsize f_blocks f_bavail")(4096, 16_384, 16_384)
    monkeypatch.setattr(machine.os, "statvfs", lambda _: small)
    found = bad(machine.machine(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ["warn descriptors", "warn shared memory"]
