"""The experts of a segment that grows over several calls, and how they are sent."""

from __future__ import annotations

from typing import Any

import numpy as np

from rollout.engine.response import Response, VersionSpan
from rollout.engine.routed_tokens import RoutedTokens
from rollout.engine.sampling import Sampling
from rollout.episodes.segment import Segment, Step
from rollout.generation.group import make_group
from rollout.generation.outcome import ResponseOutcome
from rollout.tasks.score import Score
from runtime.routing_record import RoutingShape

SHAPE = RoutingShape(layers=(2,), top_k=2, experts=16)


def routed(tokens: int, call: int) -> RoutedTokens:
    """Experts by which it can be told in which call a token was read."""
    return RoutedTokens(SHAPE, np.array([[[position % 8, 8 + call]] for position in range(tokens)]))


def answered(tokens: list[int], version: int, experts: RoutedTokens | None) -> Response:
    return Response(tokens, "stop", [VersionSpan(version, 0, len(tokens))], routed=experts)


def calls(segment: Segment) -> list[int]:
    """For each token with a record, the call that it is of."""
    record: Any = segment.record()
    return [] if record.routed is None else (record.routed.ids[:, 0, 1] - 8).tolist()


def test_a_continued_segment_keeps_the_experts_that_its_tokens_were_sampled_with():
    segment = Segment(0, "first")
    segment.commit(Step(segment, [1, 2, 3], 0), answered([4, 5], 7, routed(4, call=1)), None)
    assert calls(segment) == [1, 1, 1, 1]
    # The environment has added two tokens; token 5, sampled by the first call, was read by the second one only.
    segment.commit(Step(segment, [1, 2, 3, 4, 5, 6, 7], 5), answered([8], 8, routed(7, call=2)), None)
    assert calls(segment) == [1, 1, 1, 1, 2, 2, 2]


def test_a_dropped_answer_takes_its_experts_with_it():
    segment = Segment(0, "first")
    segment.commit(Step(segment, [1, 2], 0), answered([4, 5, 6], 7, routed(4, call=1)), None)
    segment.commit(Step(segment, [1, 2], 2), answered([9, 9], 7, routed(3, call=2)), None)
    assert calls(segment) == [1, 1, 2]


def test_calls_that_do_not_say_their_experts_leave_those_that_are_known():
    segment = Segment(0, "first")
    segment.commit(Step(segment, [1, 2], 0), answered([4, 5], 7, routed(3, call=1)), None)
    segment.commit(Step(segment, [1, 2, 4, 5, 6], 4), answered([8], 7, None), None)
    assert calls(segment) == [1, 1, 1]
    silent = Segment(0, "first")
    silent.commit(Step(silent, [1, 2], 0), answered([4, 5], 7, None), None)
    assert calls(silent) == []


def test_experts_are_sent_with_the_sequence_that_they_are_of():
    one, other = Segment(0, "first"), Segment(1, "new_conversation")
    one.commit(Step(one, [1, 2], 0), answered([4, 5], 7, routed(3, call=1)), None)
    other.commit(Step(other, [3], 0), answered([6], 7, None), None)
    first, second = one.record(), other.record()
    assert first is not None
    assert second is not None
    outcomes = [ResponseOutcome(segments, "stop", Score(1.0)) for segments in ([first], [first, second], [second])]
    group = make_group("sort", "p", [1, 2], outcomes, Sampling(1.0, 8, ()))
    plain, several, silent = group.responses
    assert plain.routed_experts == routed(3, call=1).message()
    assert [part.HasField("routed_experts") for part in several.segments] == [True, False]
    assert several.segments[0].routed_experts.ids == bytes([0, 9, 1, 9, 2, 9])
    assert not several.HasField("routed_experts")
    assert not silent.segments[0].HasField("routed_experts")
