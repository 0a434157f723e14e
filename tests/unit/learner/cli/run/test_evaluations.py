"""Evaluations of a run, read back and compared."""

from __future__ import annotations

from pathlib import Path

from learner.cli.run.evaluations import Evaluation, best, by_subject, changes, read_evaluations
from learner.cli.run.run_history import RunHistory
from tests.tools.lively_run import evaluation
from tests.tools.runs import write_rows


def read(directory: Path, *rows: dict) -> list[Evaluation]:
    write_rows(directory / "evaluations.jsonl", rows)
    return read_evaluations(directory)


def test_rows_come_back_by_version_and_a_repeated_one_replaces_the_first(tmp_path: Path):
    rows = read(
        tmp_path,
        evaluation(4, "e", "greedy", 0.5, 0.1),
        evaluation(0, "e", "greedy", 0.2, 0.1),
        evaluation(4, "e", "greedy", 0.6, 0.1),
    )
    assert [(row.version, row.metrics["mean@1"].value) for row in rows] == [(0, 0.2), (4, 0.6)]
    assert (rows[0].prompts, rows[0].samples, rows[0].headline) == (256, 1, "mean@1")
    assert read_evaluations(tmp_path / "none") == []
    assert RunHistory(tmp_path).poll().workers == {}  # its file is not a worker's


def test_rows_that_are_not_whole_are_passed_over(tmp_path: Path):
    whole = evaluation(1, "e", "greedy", 0.2, 0.1)
    broken = [
        {"kind": "other"},
        {key: value for key, value in whole.items() if key != "name"},
        whole | {"metrics": [1]},
        whole | {"metrics": {"mean@1": [1.0]}},
        whole | {"version": "many"},
    ]
    infinite = evaluation(2, "e", "greedy", float("nan"), 0.1)
    found = read(tmp_path, *broken, infinite, whole)
    assert [row.version for row in found] == [1, 2]
    assert "mean@1" not in found[1].metrics
    assert found[1].headline == "length_mean"


def test_the_first_and_the_last_version_of_each_name_and_sampling(tmp_path: Path):
    rows = read(
        tmp_path,
        *(evaluation(version, "a", "greedy", value, 0.05) for version, value in ((0, 0.2), (3, 0.9), (6, 0.28))),
        evaluation(0, "a", "t1", 0.2, 0.05),
        evaluation(6, "a", "t1", 0.31, 0.05),
        evaluation(6, "b", "greedy", 0.2, 0.05),
    )
    assert list(by_subject(rows)) == [("a", "greedy"), ("a", "t1"), ("b", "greedy")]
    greedy, sampled = [change.row() for change in changes(rows)]
    assert greedy["first"] == {"version": 0, "value": 0.2, "low": 0.2 - 0.05, "high": 0.25}
    assert greedy["last"]["version"] == 6
    assert round(greedy["difference"], 9) == 0.08
    assert greedy["intervals_overlap"]
    assert greedy["same_size"]
    assert not sampled["intervals_overlap"]  # 0.25 below 0.26


def test_versions_are_compared_prompt_by_prompt(tmp_path: Path):
    before, after = [0.0, 0.2, 0.8, None], [0.1, 0.3, 0.9, 1.0]
    rows = read(
        tmp_path,
        evaluation(0, "a", "greedy", 0.333, 0.3, prompt_means=before),
        evaluation(6, "a", "greedy", 0.433, 0.3, prompt_means=after),
    )
    (change,) = [one.row() for one in changes(rows)]
    assert change["intervals_overlap"]  # and yet every prompt has gained a tenth
    assert {name: round(value, 9) for name, value in change["gain"].items()} == {"value": 0.1, "low": 0.1, "high": 0.1}
    others = read(
        tmp_path, *(evaluation(version, "b", "greedy", 0.2, 0.1, prompt_means=before[:version]) for version in (2, 3))
    )
    assert [one.gain for one in changes(others) if one.before.name == "b"] == [None]


def test_versions_evaluated_on_another_number_of_prompts_are_not_called_the_same(tmp_path: Path):
    rows = read(tmp_path, evaluation(0, "a", "greedy", 0.2, 0.1), evaluation(1, "a", "greedy", 0.4, 0.1, prompts=100))
    (change,) = changes(rows)
    assert not change.row()["same_size"]


def test_the_best_version_is_the_latest_with_the_largest_value(tmp_path: Path):
    rows = read(
        tmp_path,
        evaluation(0, "a", "greedy", 0.2, 0.1),
        evaluation(0, "a", "t1", 0.99, 0.0),
        evaluation(2, "a", "greedy", 0.7, 0.1),
        evaluation(3, "a", "greedy", 0.7, 0.1),
        evaluation(4, "a", "greedy", 0.6, 0.1),
        evaluation(4, "b/c", "greedy", 0.9, 0.1),
    )
    found = best(rows)
    assert found is not None
    assert (found[0].version, found[1]) == (3, "mean@1")  # by the sampling that was evaluated first
    found = best(rows, "b/c:greedy:length_mean")
    assert found is not None
    assert (found[0].version, found[1]) == (4, "length_mean")
    assert best(rows, "a:greedy:none") is None
    assert best([]) is None
