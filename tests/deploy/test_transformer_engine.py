"""The learner's image is not built around a TransformerEngine that its megatron-core refuses."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.deploy import dockerfile
from tests.deploy.dockerfile import DOCKER

SCRIPT = DOCKER / "transformer_engine.py"
RANGE = 'transformer-engine[core_cu13,pytorch]<2.12.0,>=2.9.0a0; extra == "dev"'
REQUIREMENTS = {"0.16.1": ["torch>=2.6.0", RANGE], "0.19.2": ['transformer-engine[pytorch]; extra == "te"']}


@pytest.mark.parametrize(
    ("megatron", "version", "specifier"),
    [
        ("0.16.1", "2.9.0+4f1c5a3", ""),
        ("0.16.1", "2.11.0", ""),
        ("0.16.1", "2.12.0", "<2.12.0,>=2.9.0a0"),
        ("0.16.1", "2.17.0+70f5366", "<2.12.0,>=2.9.0a0"),
        ("0.16.1", "2.8.0", "<2.12.0,>=2.9.0a0"),
        ("0.19.2", "2.17.0+70f5366", ""),
    ],
)
def test_the_range_is_megatron_cores_own(megatron: str, version: str, specifier: str):
    assert runpy.run_path(str(SCRIPT))["refused_by"](REQUIREMENTS[megatron], version) == specifier


def environment(tmp_path: Path, version: str) -> dict[str, str]:
    """An environment in which TransformerEngine of ``version`` is installed, as far as metadata say."""
    info = tmp_path / f"transformer_engine-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: transformer_engine\nVersion: {version}\n")
    return {"PYTHONPATH": str(tmp_path)}


def test_an_image_that_does_not_fit_is_refused_by_both_versions(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment(tmp_path, "2.1"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "TransformerEngine 2.1; megatron-core " + metadata.version("megatron-core") in done.stderr
    assert "--build-arg BASE=" in done.stderr


def test_a_base_without_it_is_fine():
    done = subprocess.run([sys.executable, str(SCRIPT)], env={}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_build_asks_once_everything_is_installed():
    build = dockerfile.read("learner").stages[0]
    (run,) = [one.rest for one in build.all("RUN") if "transformer_engine.py" in one.rest]
    assert run.index("pip") < run.index("/opt/leeway/bin/python deploy/docker/transformer_engine.py")
    assert any("deploy/docker/transformer_engine.py" in copy.rest.split() for copy in build.all("COPY"))
