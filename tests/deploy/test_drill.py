"""Tests that alerts on no progress, a silent fleet and an old checkpoint fire in a real Prometheus."""

from __future__ import annotations

from pathlib import Path

from tests.deploy.drill import Drill
from tests.tools.refuse import missing, needs


@needs(missing("prometheus"))
def test_alerts_fire_against_real_metrics_and_end_when_things_are_mended(tmp_path: Path):
    drill = Drill(tmp_path)
    try:
        drill.run()
    finally:
        drill.close()
    assert len(drill.times) == 5
