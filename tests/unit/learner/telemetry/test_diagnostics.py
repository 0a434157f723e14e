"""Diagnostics of a step against numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from learner.megatron.model.routing_replay import ReplayCounts
from learner.telemetry.diagnostics import ballistic, ratios, replayed, reward_by_staleness
from leeway.v1 import rollout_pb2 as pb


def test_sums_become_one_number_each():
    sums = {
        "nll_positive_sum": 3.0, "nll_positive_count": 2.0, "naive_gap_sum": -0.25, "entropy_count": 4.0, "entropy_sum": 1.0,
    }  # fmt: skip
    assert ratios(sums) == {"nll_positive": 1.5, "naive_gap": -0.25, "entropy": 0.25}


def test_nothing_counted_and_nothing_finite_is_nothing_known():
    assert ratios({"rho_sum": 2.0, "rho_count": 0.0, "naive_gap_sum": math.nan}) == {"rho": None, "naive_gap": None}


@pytest.mark.parametrize(("phi", "expected"), [(0.0, 0.0), (0.6, 0.6), (-0.4, -0.4)])
def test_ballistic_finds_the_gradients_correlation_behind_momentum(phi: float, expected: float):
    """Gradients g_t = phi g_{t-1} + noise through Adam's exponential mean, in 20,000 dimensions."""
    draw = torch.Generator().manual_seed(2)
    gradient = mean = torch.zeros(20_000)
    cosine, beta = 0.0, 0.9
    for _ in range(100):
        before = mean
        gradient = phi * gradient + torch.randn(gradient.shape, generator=draw)
        mean = beta * mean + (1 - beta) * gradient
        cosine = float(torch.cosine_similarity(mean, before, dim=0))
    assert ballistic(cosine, beta) == pytest.approx(expected, abs=0.05)
    assert phi == 0 or abs(cosine - phi) > 0.1  # the raw cosine is not it


def test_ballistic_on_a_straight_path_and_without_momentum():
    assert ballistic(1.0, 0.9) == pytest.approx(1.0)
    assert ballistic(0.3, 0.0) == 0.3
    assert ballistic(None, 0.9) is None


def response(reward: float, *versions: int) -> pb.Response:
    spans = [pb.Span(version=version, start=index, end=index + 1) for index, version in enumerate(versions)]
    return pb.Response(tokens=np.zeros(len(versions), "<i4").tobytes(), reward=reward, spans=spans)


def test_reward_by_staleness_counts_a_response_by_its_oldest_token():
    groups = [
        pb.Group(responses=[response(1.0, 7), response(0.0, 7)]),
        pb.Group(responses=[response(1.0, 5, 7), response(0.5, 5)]),
    ]
    assert reward_by_staleness(groups, {5: 2, 7: 0}) == {0: (0.5, 2), 2: (0.75, 2)}


def test_reward_by_staleness_reads_segments_and_leaves_unscored_responses_out():
    segments = [pb.Segment(spans=response(0.0, version).spans) for version in (7, 5)]
    unscored = pb.Response(reward=9.0, unscored="reward_timeout", spans=response(0.0, 7).spans)
    groups = [pb.Group(responses=[pb.Response(reward=1.0, segments=segments), unscored])]
    assert reward_by_staleness(groups, {5: 2, 7: 0}) == {2: (1.0, 1)}


def test_what_was_replayed_is_a_share_of_the_tokens_and_what_differs_a_share_of_the_choices():
    counts = ReplayCounts(tokens=40, replayed=30, choices=60, differing=6)
    assert replayed(counts) == {"routing_replayed": 0.75, "routing_disagreement": 0.1}
    none = ReplayCounts(tokens=40, replayed=0, choices=0, differing=0)
    assert replayed(none) == {"routing_replayed": 0.0, "routing_disagreement": None}
    assert replayed(None) == {"routing_replayed": None, "routing_disagreement": None}
