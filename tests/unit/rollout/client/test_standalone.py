"""The SDK stands alone: importing it loads nothing of a worker, and nothing but gRPC, protobuf and pydantic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import rollout.client

ROOT = Path(__file__).parents[4]
FORBIDDEN = {
    "aiohttp", "numpy", "prometheus_client", "safetensors", "structlog", "tokenizers", "torch", "transformers",
    "rollout.data", "rollout.engine", "rollout.main", "rollout.tasks", "rollout.telemetry", "rollout.versions",
    "rollout.worker",
}  # fmt: skip
PROBE = "import json, sys; import rollout.client; print(json.dumps(sorted(sys.modules)))"


def test_importing_the_sdk_loads_nothing_of_a_worker():
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "rollout.client.client" in loaded
    assert not loaded & FORBIDDEN


def test_every_public_name_is_there():
    for name in rollout.client.__all__:
        assert getattr(rollout.client, name).__doc__, f"{name} has no docstring"
