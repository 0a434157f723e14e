"""The format of recorded groups: what is written is what is read."""

from __future__ import annotations

import json

import pytest

from runtime.rollout_record import RecordedCall, RecordedGroup, RecordedTurn, RecordError, pack_ids, unpack_ids
from tests.tools.recorded import group, response


def test_a_group_is_one_line_and_is_read_as_it_was_written():
    said = "a\u2028b\r\nc\x00"
    call = RecordedTurn(role="assistant", reasoning="hm", calls=(RecordedCall(name="lookup", arguments='{"n": 1}'),))
    made = group(
        responses=[
            response(said, -0.5, 3, parts={"format": -0.5}),
            response("", None, 4, unscored="aborted", turns=(call,)),
        ]
    )
    line = made.line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line)["format"] == 1
    read = RecordedGroup.parse(line)
    assert read == made
    assert read.versions == [3, 4]
    assert [one.generated for one in read.responses] == [len(said), 1]


def test_advantages_are_rewards_less_their_mean_and_unscored_responses_have_none():
    rewards = [1.0, 0.0, None, 0.0, 0.0]
    made = group(responses=[response("a", reward) for reward in rewards])
    assert made.advantages == [0.75, -0.25, None, -0.25, -0.25]
    # The mean of three times 0.1 is not 0.1.
    assert group(responses=[response("a", 0.1)] * 3).advantages == [0.0, 0.0, 0.0]
    assert group(responses=[response("a", None)]).advantages == [None]


def test_token_ids_take_less_than_six_characters_each():
    ids = [0, 1, 151_643, 2**31 - 1] * 100
    packed = pack_ids(ids)
    assert unpack_ids(packed) == ids
    assert len(packed) < 6 * len(ids)
    assert unpack_ids("AQAAAAIAAAA=") == [1, 2]  # little-endian int32
    assert unpack_ids(pack_ids([])) == []


@pytest.mark.parametrize("packed", ["AQAA", "AQAAAA==x", "é"])
def test_what_is_no_token_ids_is_refused(packed: str):
    with pytest.raises(RecordError, match="not base64 of int32"):
        unpack_ids(packed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "no recorded group: the line: Invalid JSON"),
        (b"[]", "no recorded group"),
        (b'{"time": 1}', "no recorded group: group_id: Field required"),
        (b'{"group_id": "a", "time": 1, "format": 2}', "format = 2: this release reads 1"),
    ],
)
def test_a_line_that_is_no_group_is_refused_with_the_reason(line: bytes, message: str):
    with pytest.raises(RecordError, match=message):
        RecordedGroup.parse(line)


def test_what_a_newer_worker_adds_is_passed_over():
    line = group().line().replace(b'{"group_id"', b'{"mood": "good", "group_id"', 1)
    assert b"mood" in line
    assert RecordedGroup.parse(line).task == "sort"
