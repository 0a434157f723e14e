"""Runs what Kubernetes would run of overlays/dev: the demo to some steps with green probes, then a clean end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy import pods
from tests.tools.refuse import refuse

STEPS = 8


@pytest.mark.timeout(600)
def test_the_dev_overlay_trains_the_demo_with_green_probes_and_ends_cleanly(tmp_path: Path):
    if (reason := pods.refusal()) is not None:
        refuse(reason)
    outcome = pods.run(STEPS, tmp_path)
    assert outcome.steps >= STEPS
    kinds = {(line.split()[0], line.split()[1]) for line in outcome.probes}
    expected = {"leeway-redis-0", "leeway-gateway-0", "leeway-learner-0", "leeway-rollout-0"}
    assert kinds == {(pod, kind) for pod in expected for kind in ("startup", "readiness", "liveness")}
    assert all(outcome.probes.values()), outcome.probes
    assert not any(outcome.restarts.values()), f"restarted: {outcome.restarts}"
    assert not any(ending.killed for ending in outcome.endings), [str(ending) for ending in outcome.endings]
    statuses = {ending.container: ending.exit_code for ending in outcome.endings}
    assert set(statuses) == {
        f"{pod}/{name}" for pod, name in zip(sorted(expected), ("gateway", "learner", "redis", "worker"), strict=True)
    }
    assert {name: status for name, status in statuses.items() if status and "learner" not in name} == {}
