"""The file of evaluations, and the report that the gateway is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from learner.cli.run.evaluations import read_evaluations
from learner.gateway.evaluation_rules import evaluation_problem
from rollout.evaluation.results import EvaluationResult, ResultFile
from rollout.evaluation.statistics import Interval


def result(version: int, parts: int = 0) -> EvaluationResult:
    metrics = {"mean@1": Interval(0.5, 0.25, 0.75)} | {f"part/{n:03}": Interval(0.0, 0.0, 0.0) for n in range(parts)}
    return EvaluationResult(version, "sort", "greedy", 4, 1, 1, metrics, 2.5, 1000.25, [0.5, None, 1.0, 0.0])


def test_what_is_written_is_read_again_after_a_crash_in_the_middle_of_a_row(tmp_path: Path):
    path = tmp_path / "metrics" / "evaluations.jsonl"
    ResultFile(path).append(result(3))
    with path.open("a") as file:
        file.write('{"kind": "evaluation", "version": 4, "na')
    again = ResultFile(path)
    assert again.results == [result(3)]
    assert (again.has(3, "sort", "greedy"), again.has(4, "sort", "greedy")) == (True, False)
    again.append(result(4))
    assert ResultFile(path).results == [result(3), result(4)]


def test_a_row_is_what_the_summary_and_the_report_read(tmp_path: Path):
    ResultFile(tmp_path / "evaluations.jsonl").append(result(3))
    row = json.loads((tmp_path / "evaluations.jsonl").read_text())
    assert row == {
        "kind": "evaluation", "time": 1000.25, "version": 3, "name": "sort", "sampling": "greedy", "prompts": 4, "samples": 1,
        "unscored": 1, "metrics": {"mean@1": [0.5, 0.25, 0.75]}, "seconds": 2.5,
        "prompt_means": [0.5, None, 1.0, 0.0],
    }  # fmt: skip
    (found,) = read_evaluations(tmp_path)
    assert (found.version, found.metrics["mean@1"].high) == (3, 0.75)
    assert found.prompt_means == (0.5, None, 1.0, 0.0)


def test_a_report_is_what_the_gateway_takes_and_leaves_parts_out_before_anything_else():
    one = result(3, parts=100)
    message = replace(one, metrics=one.metrics | {"truncated": Interval(0.1, 0.1, 0.1)}).message()
    assert evaluation_problem(message, {3}) is None
    assert len(message.metrics) == 64
    assert message.metrics["mean@1"].low == 0.25
    assert "truncated" in message.metrics
    assert message.measured_at.ToMilliseconds() == 1000250
