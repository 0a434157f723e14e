"""The spans of a response, in its one-segment form and in that of several segments."""

from leeway.v1 import rollout_pb2 as pb
from runtime.response_spans import spans_of


def test_spans_of_both_forms():
    first, second, third = (pb.Span(version=version, start=version, end=9) for version in (1, 2, 3))
    assert list(spans_of(pb.Response(spans=[first, second]))) == [first, second]
    segments = [pb.Segment(spans=[first]), pb.Segment(spans=[second, third])]
    assert list(spans_of(pb.Response(segments=segments))) == [first, second, third]
    assert list(spans_of(pb.Response(unscored="reward_timeout"))) == []
