"""Token ids on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.client import decode_ids, encode_ids


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_ids_travel_as_little_endian_int32(ids: list[int]):
    data = encode_ids(ids)
    assert data == b"".join(number.to_bytes(4, "little", signed=True) for number in ids)
    assert decode_ids(data) == ids
    assert encode_ids(tuple(ids)) == data


@pytest.mark.parametrize("token", [2**31, -(2**31) - 1, 2**64])
def test_an_id_outside_int32_is_refused(token: int):
    with pytest.raises(OverflowError):
        encode_ids([1, token])


def test_a_cut_buffer_is_refused():
    with pytest.raises(ValueError):
        decode_ids(b"\x01\x02\x03")
