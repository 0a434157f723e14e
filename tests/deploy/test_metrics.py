"""The metrics reference is what the code declares, and names keep to the rules."""

from __future__ import annotations

import re

from tests.tools import metric_reference as reference


def test_the_committed_reference_is_made_from_this_code():
    assert reference.FILE.read_text() == reference.text(), (
        "run `python -m tests.tools.metric_reference --write` and commit"
    )


def test_names_say_process_and_unit_and_labels_are_bounded():
    allowed = {
        "api", "bound", "directory", "engine", "entry", "failure", "fleet", "opening", "outcome", "parameter", "phase",
        "reason", "rule", "sign", "stage", "state", "ending", "kind", "part", "responses", "statistic", "task",
        "method", "metric", "mirror", "name", "record", "sampling", "source",
    }  # fmt: skip
    for process, made in reference.registries().items():
        assert len(made.declared) > (2 if process == "Evaluator" else 15)
        for metric in made.declared:
            assert re.fullmatch(rf"leeway_{process.lower()}_[a-z0-9]+(_[a-z0-9]+)*", metric.name)
            assert set(metric.labels) <= allowed
            assert metric.help.endswith(".")
