"""On an image that brings its own torch, pip must leave it, and whatever was compiled against it, as they are."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib import metadata

import pytest

from tests.deploy.dockerfile import DOCKER, ROOT

SCRIPT = DOCKER / "base_constraints.py"
# A base: torch needs jinja and sympy, sympy needs mpmath; transformer-engine needs torch; pydantic has nothing to do with it.
VERSIONS = {
    "torch": "2.13.0a0+nv",
    "jinja2": "3",
    "sympy": "1",
    "mpmath": "1.3",
    "transformer-engine": "2.9",
    "pydantic": "2.9",
}
NEEDS = {
    "torch": {"jinja2", "sympy"},
    "sympy": {"mpmath"},
    "transformer-engine": {"torch", "pydantic"},
    "pydantic": {"absent"},
}


@pytest.fixture(scope="module")
def constraints():
    return runpy.run_path(str(SCRIPT))["constraints"]


def test_torch_what_it_needs_and_what_needs_it_stay_as_the_base_has_them(constraints):
    lines = constraints([], VERSIONS, NEEDS, ["torch"])
    assert lines == ["jinja2==3", "mpmath==1.3", "sympy==1", "torch==2.13.0a0+nv", "transformer-engine==2.9"]


def test_ours_hold_for_what_the_base_does_not_have(constraints):
    ours = ["# a comment", "", "torch==2.13.0", "pydantic==2.14.3", "Transformer_Engine==1", "redis==8.1.0"]
    lines = constraints(ours, VERSIONS, NEEDS, ["torch"])
    assert lines[-1] == "redis==8.1.0"
    assert [line for line in lines if line.startswith(("torch==", "pydantic", "Transformer"))] == ["torch==2.13.0a0+nv"]


def test_the_base_is_what_this_environment_has():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "constraints.txt", "torch"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    for name in ("torch", "numpy", "megatron-core"):
        assert f"{name}=={metadata.version(name)}" in lines


@pytest.mark.parametrize("wanted", ["transformer-engine", "sglang==0.5.22"])
def test_another_image_than_expected_is_refused(wanted: str):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "constraints.txt", wanted], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"expected {wanted} in the base, found ")
