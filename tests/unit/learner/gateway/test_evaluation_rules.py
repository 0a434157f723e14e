"""Reported evaluations that are refused, with the field and value that the refusal names."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from learner.gateway.evaluation_rules import evaluation_problem
from leeway.v1 import rollout_pb2 as pb


def evaluation() -> pb.Evaluation:
    metrics = {"mean@1": pb.Interval(value=0.5, low=0.25, high=0.75)}
    return pb.Evaluation(
        version=3, name="sort", sampling="greedy", prompts=4, samples=2, unscored=8, metrics=metrics, seconds=1.0
    )


def test_a_sound_evaluation_is_taken():
    assert evaluation_problem(evaluation(), {3}) is None


def set_metric(name: str, value: float, low: float, high: float) -> Callable[[pb.Evaluation], object]:
    return lambda one: one.metrics[name].CopyFrom(pb.Interval(value=value, low=low, high=high))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda one: setattr(one, "version", 4), "version = 4"),
        (lambda one: setattr(one, "name", ""), "name = '' (allowed: 1 to 128 bytes)"),
        (lambda one: setattr(one, "name", "n" * 129), "allowed: 1 to 128 bytes"),
        (lambda one: setattr(one, "name", "a\nb"), r"name = 'a\nb'"),
        (lambda one: setattr(one, "sampling", "s" * 65), "allowed: 1 to 64 bytes"),
        (lambda one: setattr(one, "prompts", 0), "prompts = 0"),
        (lambda one: setattr(one, "unscored", 9), "unscored = 9: expected at most prompts * samples = 8"),
        (lambda one: setattr(one, "seconds", math.inf), "seconds = inf"),
        (lambda one: one.metrics.clear(), "metrics: 0 of them"),
        (lambda one: [one.metrics[f"m{number}"].Clear() for number in range(64)], "metrics: 65 of them"),
        (set_metric("a\nb", 0, 0, 0), r"metrics['a\nb'"),
        (set_metric("x", math.nan, 0, 1), "metrics['x']: low = 0.0, value = nan"),
        (set_metric("x", 1, 0, math.inf), "high = inf"),
        (set_metric("x", 0.1, 0.2, 0.3), "low = 0.2, value = 0.1"),
        (set_metric("x", 0.4, 0.2, 0.3), "value = 0.4, high = 0.3"),
    ],
)
def test_what_is_refused(change: Callable[[pb.Evaluation], object], problem: str):
    one = evaluation()
    change(one)
    assert problem in str(evaluation_problem(one, {3}))
