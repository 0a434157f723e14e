"""Tests that alerts on no progress, a silent fleet and an old checkpoint fire in a real Prometheus."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.deploy.drill import Drill


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed: no live drill")
def test_alerts_fire_against_real_metrics_and_end_when_things_are_mended(tmp_path: Path):
    drill = Drill(tmp_path)
    try:
        drill.run()
    finally:
        drill.close()
    assert len(drill.times) == 5
