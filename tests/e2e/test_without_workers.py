"""A run without workers: Redis, gateway and learner, which a fleet on the SDK trains to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.live import REPOSITORY, LiveRun, free_ports

_LIMIT_S = 600
_RUN = """
[run]
name = "alone"
dir = "{directory}"
status_port = {status}
[model]
path = "demo"
[gateway]
listen = "127.0.0.1:{port}"
[learner]
steps = 2
groups_per_step = 6
[learner.warmup]
count = 512
target = 0.001
[rollout]
workers = 0
[rollout.sampling]
responses = 2
max_new_tokens = 16
"""


@pytest.mark.timeout(1200)
def test_a_fleet_on_the_sdk_trains_a_run_that_has_no_workers(tmp_path: Path, start_run: Callable[..., LiveRun]):
    port, directory = free_ports(64), tmp_path / "alone"
    (tmp_path / "run.toml").write_text(_RUN.format(directory=directory, port=port, status=port + 1))
    run = start_run(directory, str(tmp_path / "run.toml"))
    token = directory / "secrets" / "local.token"
    run.wait_until(token.is_file, "token", _LIMIT_S)
    program = [sys.executable, "examples/fleet-python/fleet.py", f"127.0.0.1:{port}", token.read_text().strip()]
    with (
        (tmp_path / "fleet.err").open("w") as errors,
        subprocess.Popen(program, cwd=REPOSITORY, stderr=errors) as fleet,
    ):
        try:
            assert run.finish(_LIMIT_S) == 0, run.output.read_text()[-4000:]
            assert fleet.wait(_LIMIT_S) == 0
        finally:
            fleet.kill()
    assert "rejected" not in (tmp_path / "fleet.err").read_text()
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 2)
    assert summary["groups_trained"] >= 12
    assert summary["ledger_balanced"]
    assert set(summary["restarts"]) == {"redis", "gateway", "learner"}
    assert (directory / "demonstrations.jsonl").is_file()  # the warm start asks the task, not a worker
    said = run.output.read_text()
    assert f"fleets of your own submit to 127.0.0.1:{port}" in said
    assert "leeway fleet add" in said
    assert "worker-0" not in said
    assert "generated," not in said
