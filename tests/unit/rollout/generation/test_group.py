"""Groups lose their records of experts where no message has room for them."""

from __future__ import annotations

from leeway.v1 import rollout_pb2 as pb
from rollout.generation.group import drop_records


def test_records_are_removed_from_responses_and_segments_and_nothing_else_is():
    record = pb.RoutedExperts(layers=[1], top_k=1, experts=4, ids=bytes(3))
    single = pb.Response(tokens=bytes(4), reward=1.0)
    several = pb.Response(segments=[pb.Segment(tokens=bytes(8)), pb.Segment(tokens=bytes(4))])
    plain = pb.Group(group_id="g", responses=[single, several, single])
    group = pb.Group()
    group.CopyFrom(plain)
    group.responses[0].routed_experts.CopyFrom(record)
    for segment in group.responses[1].segments:
        segment.routed_experts.CopyFrom(record)
    assert drop_records(group) == 2  # responses, not records
    assert group == plain
    assert drop_records(group) == 0
