"""Tests of what is measured of a worker's files, and of the bound on its engines' logs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rollout.config import WorkerConfig
from rollout.telemetry.worker_files import WorkerFiles
from runtime.metric_registry import MetricRegistry


@pytest.fixture
def files(tmp_path: Path) -> Any:
    directories = {name: str(tmp_path / name) for name in ("model", "state_dir", "log_dir", "metrics_dir")}
    values = {"gateway": "127.0.0.1:1", "allowed_uris": [tmp_path.as_uri()], "file_bytes": 1 << 16, **directories}
    return WorkerFiles(WorkerConfig.parse(values, source="test"), MetricRegistry())


def write(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_sizes_by_kind_are_of_this_worker_alone(tmp_path: Path, files: WorkerFiles):
    write(tmp_path / "state_dir/worker-0.acked.jsonl", 10)
    write(tmp_path / "state_dir/worker-0.sort.cursor.json", 5)
    write(tmp_path / "state_dir/worker-01.acked.jsonl", 1000)
    write(tmp_path / "state_dir/worker-0.versions/version_000007/model.safetensors", 300)
    write(tmp_path / "metrics_dir/worker-0.jsonl", 20)
    write(tmp_path / "metrics_dir/worker-0.jsonl.1", 21)
    write(tmp_path / "log_dir/worker-0.engine-0.log", 7)
    write(tmp_path / "rollouts/worker-0-00000.jsonl", 9)
    files.look()
    assert files.bytes == {"metrics": 41, "rollouts": 9, "state": 15, "logs": 7, "versions": 300}


def test_an_engines_log_begins_anew_at_the_bound(tmp_path: Path, files: WorkerFiles):
    log = write(tmp_path / "log_dir/worker-0.engine-0.log", (1 << 16) + 1)
    other = write(tmp_path / "log_dir/worker-1.engine-0.log", (1 << 16) + 1)
    files.look()
    assert log.stat().st_size == 0
    assert other.stat().st_size > 1 << 16  # of another worker, who looks after it
    assert files.bytes["logs"] == (1 << 16) + 1


def test_a_kind_that_cannot_be_measured_leaves_the_others(tmp_path: Path, files: WorkerFiles):
    write(tmp_path / "metrics_dir", 1)  # a file where the directory should be
    write(tmp_path / "log_dir/worker-0.engine-0.log", 7)
    files.look()
    assert math.isnan(files.bytes["metrics"])
    assert files.bytes["logs"] == 7


def test_every_series_is_there_from_the_start(tmp_path: Path):
    registry = MetricRegistry()
    config = {"gateway": "127.0.0.1:1", "allowed_uris": [tmp_path.as_uri()]}
    config |= dict.fromkeys(("model", "state_dir", "log_dir"), str(tmp_path / "absent"))
    WorkerFiles(WorkerConfig.parse(config, source="test"), registry)
    read = registry.prometheus.get_sample_value
    for kind in ("metrics", "rollouts", "state", "logs", "versions"):
        assert read("leeway_worker_file_bytes", {"kind": kind}) == 0
    for directory in ("state", "logs", "versions"):
        free = read("leeway_worker_disk_free_bytes", {"directory": directory})
        assert free is not None
        assert math.isnan(free)
