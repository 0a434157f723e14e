"""Messages are bounded before they are parsed, whatever their bytes are."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from learner.gateway import parsing
from learner.gateway.parsing import MOST_GROUPS, MalformedError, parse, parse_submit
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import valid_group


def several(count: int, group: pb.Group | None = None) -> pb.SubmitRequest:
    """Makes a request of ``count`` groups, side by side."""
    request = pb.SubmitRequest(group=group)
    request.more.extend([pb.SubmitRequest(group=group)] * (count - 1))
    return request


@pytest.mark.parametrize("group", [None, valid_group()])
def test_a_message_of_the_most_groups_is_parsed_and_of_one_more_is_not(group: pb.Group | None):
    assert len(parse_submit(several(MOST_GROUPS, group).SerializeToString())) == MOST_GROUPS
    with pytest.raises(MalformedError, match="more than 1024 groups"):
        parse_submit(several(MOST_GROUPS + 1, group).SerializeToString())


def test_groups_nested_in_groups_count_too():
    request = pb.SubmitRequest()
    for _ in range(4):
        request.more.append(several(256))
    with pytest.raises(MalformedError, match="more than 1024 groups"):
        parse_submit(request.SerializeToString())
    del request.more[3].more[254:]
    assert len(parse_submit(request.SerializeToString())) == MOST_GROUPS


def test_nothing_is_built_of_a_message_with_too_many_groups(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(parsing, "_parsed", refuse)
    for part in (b"\x22\x00", b"\x22\x02\x22\x00", b"\xa2\x80\x00\x00"):  # the last: field 4 with a longer tag
        with pytest.raises(MalformedError, match="more than 1024 groups"):
            parse_submit(part * 500_000)


def test_a_message_of_countless_unknown_fields_is_not_walked_through():
    with pytest.raises(MalformedError, match="16384 fields"):
        parse_submit(b"\x78\x01" * 1_000_000)


def test_unknown_fields_of_every_wire_type_are_passed_over():
    unknown = b"\x78\x01" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x7a\x02xy" + b"\x7b\x78\x01\x7c"
    assert len(parse_submit(several(1000).SerializeToString() + unknown)) == 1000


@given(st.binary(max_size=300), st.integers(0, 2500))
def test_damage_is_malformed_exactly_where_the_parser_says_so(damage: bytes, at: int):
    message = several(8, valid_group(length=60)).SerializeToString()
    message = message[:at] + damage + message[at:]
    assert len(message) > 2 * MOST_GROUPS
    try:
        expected = pb.SubmitRequest.FromString(message)
    except DecodeError:
        with pytest.raises(MalformedError):
            parse_submit(message)
    else:
        assert parse_submit(message)[0] == expected


def test_other_calls_are_bounded_by_size_alone():
    leases = pb.LeaseRequest(groups=1, returned_lease_ids=["0" * 32] * 1024)
    assert parse(pb.LeaseRequest, leases.SerializeToString()) == leases
    with pytest.raises(MalformedError, match="LeaseRequest of 2000000 bytes: expected at most 65536"):
        parse(pb.LeaseRequest, b"\x22\x00" * 1_000_000)
    with pytest.raises(MalformedError, match=r"not a LeaseRequest: .* without compression"):
        parse(pb.LeaseRequest, b"\x1f\x8b\x08\x00")
