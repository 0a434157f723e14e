"""Grafana dashboards: every query parses and reads metrics that exist; together they show every metric we have."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.queries import metrics_of, queries_of
from tests.tools.metric_reference import declared, registries
from tests.tools.refuse import missing, needs

BOARDS = sorted((Path(__file__).parents[2] / "deploy" / "grafana").glob("*.json"))
# Of Prometheus itself, of its client library, and our recorded limits.
OTHERS = {"ALERTS", "process_resident_memory_bytes"}


def board(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_there_is_a_board_for_the_run_the_intake_the_learner_and_the_engines():
    assert [path.stem for path in BOARDS] == ["engines", "intake", "learner", "overview"]
    assert len({board(path)["uid"] for path in BOARDS}) == 4


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_queries_read_metrics_that_exist_of_the_run_that_is_chosen(path: Path):
    limits = (Path(__file__).parents[2] / "deploy/prometheus/rules/limits.yaml").read_text()
    for query in queries_of(board(path)):
        for name in metrics_of(query):
            assert name in declared() | OTHERS or f'"{name}"' in limits, name
        assert 'run="$run"' in query or "leeway:limit:" in query


def test_every_metric_is_on_a_board():
    shown = {name for path in BOARDS for query in queries_of(board(path)) for name in metrics_of(query)}
    for made in registries().values():
        for metric in made.declared:
            assert {metric.name, f"{metric.name}_bucket", f"{metric.name}_count"} & shown, metric.name


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap_and_have_titles_of_their_own(path: Path):
    panels = board(path)["panels"]
    assert [title for title, count in Counter(panel["title"] for panel in panels).items() if count > 1] == []
    cells: Counter[tuple[int, int]] = Counter()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells.update((at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"]))
    assert max(cells.values()) == 1


@needs(missing("promtool"))
def test_every_query_parses(tmp_path: Path):
    queries = [query for path in BOARDS for query in queries_of(board(path))]
    shown = [query.replace("$__rate_interval", "1m").replace("$run", "run") for query in queries]
    rules = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(shown)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    reply = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, timeout=60)
    assert reply.returncode == 0, reply.stdout + reply.stderr
    assert f"{len(queries)} rules found" in reply.stdout
