"""Alert rules: each fires in a test and not in a healthy run, has a paragraph in the runbook, reads metrics that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.queries import metrics_of
from tests.tools.metric_reference import declared
from tests.tools.refuse import missing, needs

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yaml"))
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yaml"))
OF_PROMETHEUS = {"up", "process_start_time_seconds"}


def rules(kind: str) -> list[dict[str, Any]]:
    """Rules of a kind, "alert" or "record"."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def expected(name: str) -> list[dict[str, Any]]:
    """What the rule tests say of alerts."""
    tests = yaml.safe_load((DEPLOY / "prometheus" / "tests" / name).read_text())["tests"]
    return [case for test in tests for case in test["alert_rule_test"]]


@needs(missing("promtool"))
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_fire_where_they_should_and_only_there(path: Path):
    reply = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60)
    assert reply.returncode == 0, reply.stdout + reply.stderr


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not():
    names = sorted(rule["alert"] for rule in rules("alert"))
    assert len(names) == len(set(names)) > 20
    assert sorted({case["alertname"] for case in expected("alerts.yaml") if case["exp_alerts"]}) == names
    healthy = expected("healthy.yaml")
    assert sorted({case["alertname"] for case in healthy}) == names
    assert not [case for case in healthy if case["exp_alerts"]]


def test_every_alert_says_how_bad_it_is_and_links_to_its_own_paragraph():
    headings = re.findall(r"^### (\w+)$", (DEPLOY / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in rules("alert"))
    for rule in rules("alert"):
        assert rule["annotations"]["runbook_url"] == f"deploy/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "warn", "info")
        assert "$labels.run" in rule["annotations"]["summary"]


def test_alerts_use_metrics_and_limits_that_exist_and_every_limit_is_used():
    limits = {rule["record"] for rule in rules("record")}
    used = {name for rule in rules("alert") for name in metrics_of(rule["expr"])}
    assert {name for name in used if name.startswith("leeway:")} == limits
    assert {name for name in used if not name.startswith("leeway:")} <= declared() | OF_PROMETHEUS


def test_no_alert_waits_for_a_run_that_has_finished():
    """What such a run lacks is no fault: steps, a learner, fleets, and the processes that have ended."""
    waiting = {"LeewayNoProgress", "LeewayLearnerAbsent", "LeewayTargetDown", "LeewayFleetSilent"}
    unless = "unless on (run) max by (run) (leeway_gateway_run_finished) == 1"
    assert {rule["alert"] for rule in rules("alert") if rule["expr"].endswith(unless)} == waiting
    finished = next(
        test
        for test in yaml.safe_load((DEPLOY / "prometheus" / "tests" / "healthy.yaml").read_text())["tests"]
        if test["name"] == "finished"
    )
    assert {case["alertname"] for case in finished["alert_rule_test"]} == waiting
