"""Compares the metrics of a live run with those that dashboards and alerts read."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import yaml

from runtime.endpoint_config import EVALUATOR_OFFSET, GATEWAY_OFFSET, LEARNER_OFFSET, WORKER_OFFSET
from tests.deploy.queries import metrics_of, queries_of
from tests.tools.scrape import Scrape, probe

_DEPLOY = Path(__file__).parents[2] / "deploy"
_PROMETHEUS = {"up", "ALERTS"}  # series that it makes itself
# Series of runs with an evaluation and a reward of several parts: there are none before the first.
OF_EVALUATED_PARTS = {
    "leeway_evaluator_evaluations_total",
    "leeway_evaluator_unreported_results",
    "leeway_evaluator_version",
    "leeway_gateway_evaluation",
    "leeway_learner_task_part_reward",
}
_OF_MIRRORS = "leeway_learner_mirror_"


def unseen(base: int) -> set[str]:
    """Series that queries of deploy/ read and a run with ``run.status_port = base`` does not show; probes that fail.

    Those that need an evaluation and a reward of parts are left out, and those of mirrors, of which the demo has none.
    """
    addresses = [f"127.0.0.1:{base + offset}" for offset in (GATEWAY_OFFSET, LEARNER_OFFSET, WORKER_OFFSET)]
    failing = {f"{address}/healthz" for address in addresses if probe(address, "/healthz")[0] != 200}
    wanted = {name for query in _queries() for name in metrics_of(query)}
    wanted = {name for name in wanted if not name.startswith(_OF_MIRRORS)}
    return wanted - OF_EVALUATED_PARTS - _shown(addresses) - _recorded() - _PROMETHEUS | failing


def unseen_of_evaluated_parts(base: int) -> set[str]:
    """Those of OF_EVALUATED_PARTS that a run with ``run.status_port = base`` does not show; all while it cannot be asked."""
    addresses = [f"127.0.0.1:{base + offset}" for offset in (GATEWAY_OFFSET, EVALUATOR_OFFSET, LEARNER_OFFSET)]
    with contextlib.suppress(OSError):
        return OF_EVALUATED_PARTS - _shown(addresses)
    return OF_EVALUATED_PARTS


def _shown(addresses: list[str]) -> set[str]:
    return {name for address in addresses for name in Scrape(address).names()}


def _queries() -> list[str]:
    boards = [json.loads(path.read_text()) for path in (_DEPLOY / "grafana").glob("*.json")]
    alerts = [rule["expr"] for rule in _rules() if "alert" in rule]
    return [query for board in boards for query in queries_of(board)] + alerts


def _recorded() -> set[str]:
    return {rule["record"] for rule in _rules() if "record" in rule}


def _rules() -> list[dict[str, str]]:
    files = [yaml.safe_load(path.read_text()) for path in (_DEPLOY / "prometheus/rules").glob("*.yaml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]
