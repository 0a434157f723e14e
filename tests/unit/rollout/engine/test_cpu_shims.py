"""The CPU stand-ins are used with the SGLang release they were written for, and with no other."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from rollout.engine.cpu_shims import SGLANG, cpu_shims
from runtime.settings import SettingsError

ROOT = Path(__file__).parents[4]


def test_the_stand_ins_are_for_the_release_that_is_pinned():
    assert f"sglang=={SGLANG}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert f"sglang=={SGLANG} " in (ROOT / "requirements/engine-cpu.txt").read_text()
    assert f"SGLang {SGLANG}" in (cpu_shims() / "README.md").read_text()


def test_every_stand_in_is_described():
    readme = (cpu_shims() / "README.md").read_text()
    packages = {path.parent.name for path in cpu_shims().glob("*/__init__.py")}
    assert packages == {"sgl_kernel", "torchvision", "triton"}
    assert all(f"`{package}`" in readme for package in packages)


def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "version", lambda _: "0.5.24")
    with pytest.raises(SettingsError, match=rf"SGLang 0\.5\.24 is installed, .* stand-ins are for {SGLANG}"):
        cpu_shims()


def test_no_sglang_at_all_is_refused(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(SettingsError, match="SGLang is not installed here"):
        cpu_shims()


def test_the_processes_that_a_server_would_spawn_are_forked():
    program = (
        "import multiprocessing, sgl_kernel; multiprocessing.set_start_method('spawn', force=True); "
        "print(multiprocessing.get_start_method())"
    )
    environment = os.environ | {"PYTHONPATH": str(cpu_shims())}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, timeout=120, text=True) == "fork\n"
