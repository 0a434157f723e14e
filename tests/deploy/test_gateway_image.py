"""Builds the gateway's image with buildah and starts what is in it, where root, buildah and the base are there.

The base is the Dockerfile's, or LEEWAY_TEST_GATEWAY_BASE: any image with python 3.11 and pip, as debootstrap makes one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.deploy import dockerfile
from tests.deploy.dockerfile import ROOT
from tests.tools.refuse import missing

pytestmark = pytest.mark.timeout(900)
IMAGE = "localhost/leeway-gateway:test"


def buildah(*words: str, limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["buildah", *words], cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False)


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container of the image, built now."""
    if os.geteuid() or missing("buildah"):
        pytest.skip("an image of the gateway is built by root, with buildah")
    base = os.environ.get("LEEWAY_TEST_GATEWAY_BASE") or dockerfile.read("gateway").final.base
    try:
        pulled = buildah("pull", "--policy=missing", base, limit_s=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the image's base cannot be pulled in time: {base}")
    if pulled.returncode:
        pytest.skip(f"the image's base cannot be pulled: {base}")
    words = ["build", "--isolation=chroot", "--pull=never", f"--build-arg=PYTHON={base}", f"--tag={IMAGE}"]
    built = buildah(*words, "-f", "deploy/docker/gateway/Dockerfile", ".", limit_s=600)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    started = buildah("from", "--pull=never", IMAGE)
    assert started.returncode == 0, started.stderr
    name = started.stdout.strip()
    yield name
    buildah("rm", name)
    buildah("rmi", IMAGE)


def test_what_is_built_runs_as_nobody_in_particular(container: str):
    done = buildah("run", "--isolation=chroot", container, "--", "id", "-u")
    assert done.stdout.strip() == "10001", done.stderr


def test_the_command_and_the_gateway_start_in_it(container: str):
    version = buildah("run", "--isolation=chroot", container, "--", "leeway", "--version")
    assert version.returncode == 0, version.stderr
    gateway = buildah("run", "--isolation=chroot", container, "--", "python", "-m", "learner.gateway", "/no-such.toml")
    assert (gateway.returncode, "no such configuration file" in gateway.stderr + gateway.stdout) == (2, True)
