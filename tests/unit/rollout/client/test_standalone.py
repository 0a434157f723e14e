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
# Other packages: what the SDK needs, and what those import by themselves where it is installed.
ALLOWED = {
    "annotated_types", "google", "grpc", "grpc_health", "grpc_reflection", "grpc_status", "grpc_tools", "pydantic",
    "pydantic_core", "typing_extensions", "typing_inspection", "cython_runtime",
}  # fmt: skip
PROBE = "import json, sys; import rollout.client; print(json.dumps(sorted(sys.modules)))"


def test_importing_the_sdk_loads_nothing_of_a_worker():
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "rollout.client.client" in loaded
    assert not loaded & FORBIDDEN
    packages = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert {name for name in packages if not name.startswith("_")} <= ALLOWED | {"leeway", "rollout", "runtime"}


def test_every_public_name_is_there():
    for name in rollout.client.__all__:
        assert getattr(rollout.client, name).__doc__, f"{name} has no docstring"
