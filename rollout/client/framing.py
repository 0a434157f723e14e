"""Builds SubmitRequest messages from groups that are serialized already, so that each is serialized once."""

from __future__ import annotations

from leeway.v1 import rollout_pb2

# Tags of the fields group and more: (field number << 3) | 2, length-delimited (https://protobuf.dev/programming-guides/encoding/).
_GROUP, _MORE = 2 << 3 | 2, 4 << 3 | 2


def submit_request(sequence: int, lease_id: str, group: bytes) -> bytes:
    """Encodes a SubmitRequest with one group."""
    head = rollout_pb2.SubmitRequest(sequence=sequence, lease_id=lease_id).SerializeToString()
    return b"".join([head, _prefix(_GROUP, group), group])


def joined(requests: list[bytes]) -> bytes:
    """Joins encoded SubmitRequests into one message: the first, with the others in its field ``more``."""
    pieces = requests[:1]
    for request in requests[1:]:
        pieces += (_prefix(_MORE, request), request)
    return b"".join(pieces)


def _prefix(tag: int, message: bytes) -> bytes:
    """The bytes before an embedded message: the field's tag, then the message's length as a varint."""
    prefix, length = bytearray([tag]), len(message)
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)
