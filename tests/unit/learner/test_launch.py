"""A learner that trains on the CPU although it is meant for a GPU says so."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from learner import launch
from learner.config import LearnerConfig


@pytest.mark.parametrize(
    ("dtype", "machine", "warned"), [("float32", [], 0), ("bfloat16", [], 1), ("float32", ["x"], 1)]
)
def test_training_on_the_cpu_is_warned_of_where_a_gpu_was_meant(
    monkeypatch: pytest.MonkeyPatch, dtype: str, machine: list[str], warned: int
):
    unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "metrics_dir": "unused", "steps": 1}
    values: dict[str, Any] = {"model": "m", "queue": {"url": "redis://x", "run": "r"}, "dtype": dtype}
    monkeypatch.setattr(launch, "signs_of_machine", lambda _: machine)
    with capture_logs() as lines:
        launch.warn_of_cpu(LearnerConfig.parse(values | unused, "test"), structlog.get_logger())
    assert len(lines) == warned
    for line in lines:
        assert line["log_level"] == "warning"
        assert line["event"].startswith("TRAINING ON THE CPU")
        assert line["signs_of_a_gpu"] == (['dtype = "bfloat16"'] if dtype == "bfloat16" else []) + machine
