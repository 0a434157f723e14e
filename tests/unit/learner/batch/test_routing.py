"""Records of experts beside the tokens of responses: where they begin, segments, and records of other models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learner.batch.routing import count_records, record_of, routed_experts
from learner.batch.sequences import to_sequences
from leeway.v1 import rollout_pb2 as pb
from runtime.routing_record import RoutingShape

SHAPE = RoutingShape(layers=(1, 3), top_k=2, experts=300)


def ids(*tokens: int) -> bytes:
    return np.array(tokens, "<i4").tobytes()


def record(start: int, *tokens: list[list[int]], **changes: Any) -> pb.RoutedExperts:
    fields = {**SHAPE.model_dump(), "start": start, "ids": SHAPE.encode(np.array(tokens))}
    return pb.RoutedExperts(**{**fields, **changes})


def response(reward: float = 0.0, **fields: Any) -> pb.Response:
    return pb.Response(reward=reward, **{"tokens": ids(5, 6), "spans": [pb.Span(start=0, end=2)], **fields})


FIRST, SECOND = [[299, 0], [256, 7]], [[3, 2], [1, 0]]
NONE = [[-1, -1], [-1, -1]]


def test_tokens_before_and_behind_the_record_have_none():
    found = routed_experts(3, response(routed_experts=record(2, FIRST, SECOND)), SHAPE)
    assert found.tolist() == [NONE, NONE, FIRST, SECOND, NONE]
    assert routed_experts(3, response(), SHAPE).tolist() == [NONE] * 5


@pytest.mark.parametrize("changes", [{"layers": [1]}, {"layers": [1, 2]}, {"top_k": 4}, {"experts": 301}])
def test_a_record_of_another_model_is_never_used(changes: dict[str, Any]):
    foreign = response(routed_experts=record(0, FIRST, **changes))
    assert record_of(foreign, SHAPE) == "foreign"
    assert routed_experts(3, foreign, SHAPE).tolist() == [NONE] * 5


def test_sequences_carry_the_experts_of_their_prompt_and_of_all_segments():
    spans = [pb.Span(start=0, end=1)]
    segments = [
        pb.Segment(context_tokens=ids(1, 2), tokens=ids(3), spans=spans, routed_experts=record(0, FIRST, SECOND)),
        pb.Segment(context_tokens=ids(4), tokens=ids(5, 6), spans=spans),
    ]
    responses = [response(1.0, routed_experts=record(1, FIRST)), pb.Response(segments=segments)]
    group = pb.Group(prompt_tokens=ids(9), responses=responses, temperature=1.0)
    plain, several = to_sequences([group], replayed=SHAPE)
    assert plain.routed is not None
    assert several.routed is not None
    assert plain.routed.tolist() == [NONE, FIRST, NONE]
    assert several.routed.tolist() == [FIRST, SECOND, NONE, NONE, NONE, NONE]
    assert [one.routed for one in to_sequences([group])] == [None, None]
    foreign = response(routed_experts=record(0, FIRST, top_k=1))
    unscored = response(unscored="crash", routed_experts=record(0, FIRST))
    groups = [group, pb.Group(responses=[foreign, unscored])]
    assert count_records(groups, SHAPE) == {"replayed": 2, "absent": 1, "foreign": 1}
