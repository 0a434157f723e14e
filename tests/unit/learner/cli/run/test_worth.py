"""The versions that a run leaves behind."""

from __future__ import annotations

from pathlib import Path

from learner.cli.run.evaluations import read_evaluations
from learner.cli.run.worth import worth
from tests.tools.lively_run import evaluation
from tests.tools.published import write_manifest
from tests.tools.runs import write_rows


def version(weights: Path, number: int, base: int | None = None) -> Path:
    directory = weights / f"weight_v{number:06d}"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    write_manifest(directory, number, changes={} if base is None else {"base_version": base})
    return directory


def test_the_best_and_the_last_version_with_their_paths(tmp_path: Path):
    weights = tmp_path / "weights"
    best, last = version(weights, 2), version(weights, 3, base=2)
    rows = [evaluation(2, "e", "greedy", 0.9, 0.1), evaluation(3, "e", "greedy", 0.8, 0.1)]
    write_rows(tmp_path / "evaluations.jsonl", rows)
    found = worth(weights, read_evaluations(tmp_path))
    assert found["last"] == {"version": 3, "path": str(last), "loads": False}
    assert found["best"] == {
        "version": 2, "path": str(best), "loads": True, "metric": "mean@1", "name": "e", "sampling": "greedy", "value": 0.9,
    }  # fmt: skip


def test_a_best_version_that_retention_has_removed_has_no_path(tmp_path: Path):
    version(tmp_path / "weights", 3)
    write_rows(tmp_path / "evaluations.jsonl", [evaluation(1, "e", "greedy", 0.9, 0.1)])
    found = worth(tmp_path / "weights", read_evaluations(tmp_path))
    assert found["best"]["path"] is None
    assert not found["best"]["loads"]


def test_a_run_that_published_nothing(tmp_path: Path):
    assert worth(tmp_path / "weights", []) == {"last": None, "best": None}
