"""Summaries of response lengths, by hand and against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from learner.batch.lengths import LengthSummary, lengths
from leeway.v1 import rollout_pb2 as pb

STOP, LENGTH, ABORT = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_ABORT


def response(tokens: int, reward: float, finish: pb.FinishReason = STOP, unscored: str = "") -> pb.Response:
    spans = [pb.Span(version=0, start=3, end=3 + tokens)] if tokens else []
    return pb.Response(reward=reward, spans=spans, finish_reason=finish, unscored=unscored)


def fields(summary: LengthSummary | None) -> tuple[float, float, float, int]:
    assert summary is not None
    return summary.mean, summary.p50, summary.p95, summary.max


def test_lengths_by_sign_and_finish_reason_by_hand():
    mixed = pb.Group(
        responses=[
            response(10, 1.0),
            response(20, 0.0, LENGTH),
            response(31, 0.0, ABORT),
            response(7, 9.0, LENGTH, unscored="reward_timeout"),  # its reward is not read: it has no sign
            response(0, 0.0, ABORT, unscored="agent_crashed"),  # nothing was generated
        ]
    )
    equal = pb.Group(responses=[response(40, 1.0), response(60, 1.0)])
    centre = pb.Group(
        responses=[response(100, 0.0), response(200, 0.5), response(300, 1.0)]
    )  # 0.5 is the mean: no sign
    found = lengths([mixed, equal, centre])
    assert fields(found.all) == pytest.approx((768 / 9, 40, 260, 300))
    assert fields(found.positive) == pytest.approx((155, 155, 10 + 0.95 * 290, 300))
    assert fields(found.negative) == pytest.approx((151 / 3, 31, 31 + 0.9 * 69, 100))
    stop, cut, aborted = (found.by_finish[name] for name in ("stop", "length", "abort"))
    assert (stop and stop.max, cut and cut.mean, aborted and aborted.max) == (300, 13.5, 31)


def test_tokens_of_all_segments_count_and_the_environments_do_not():
    spans = [pb.Span(version=0, start=0, end=2), pb.Span(version=1, start=5, end=6)]
    segments = [pb.Segment(spans=spans), pb.Segment(spans=spans[:1])]
    found = lengths([pb.Group(responses=[pb.Response(reward=1, segments=segments)])])
    assert found.all is not None
    assert found.all.max == 5


def test_percentiles_are_numpys():
    values = np.random.default_rng(1).integers(1, 5000, 333).tolist()
    found = LengthSummary.of(values)
    assert found == LengthSummary(
        float(np.mean(values)), float(np.median(values)), float(np.percentile(values, 95)), max(values)
    )


def test_without_responses_there_is_no_summary():
    found = lengths([])
    assert (found.all, found.positive, found.negative, set(found.by_finish.values())) == (None, None, None, {None})
