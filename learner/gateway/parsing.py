"""Parses messages of authenticated callers, whose size and number of groups are bounded before anything is built of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from leeway.v1 import rollout_pb2

M = TypeVar("M", bound=Message)

MOST_GROUPS = 1024  # in one SubmitRequest; the contract names the number
_MOST_FIELDS = 16 * MOST_GROUPS  # a request has four; the rest is for fields of later versions
_MOST_CALL_BYTES = 64 << 10  # of a message that is no SubmitRequest; the largest sensible one returns 1024 leases
_MORE = 4  # number of the field SubmitRequest.more
# Wire types (https://protobuf.dev/programming-guides/encoding/).
_VARINT, _FIXED64, _BYTES, _GROUP_START, _GROUP_END, _FIXED32 = range(6)


class MalformedError(Exception):
    """A message cannot be taken. The text is sent to the caller."""


def parse(kind: type[M], message: bytes) -> M:
    """Parses the message of a call that is not Submit.

    Raises:
        MalformedError: it is too large, or no message of this kind.
    """
    if len(message) > _MOST_CALL_BYTES:
        text = f"{kind.DESCRIPTOR.name} of {len(message)} bytes: expected at most {_MOST_CALL_BYTES}"
        raise MalformedError(text)
    return _parsed(kind, message)


def parse_submit(message: bytes) -> list[rollout_pb2.SubmitRequest]:
    """Parses a message of a Submit stream; returns its requests in order, those nested in it included.

    Raises:
        MalformedError: it contains too many groups, or is no SubmitRequest.
    """
    # The smallest group takes two bytes.
    if len(message) > 2 * (MOST_GROUPS - 1):
        _require_few_groups(message)
    return list(_flat(_parsed(rollout_pb2.SubmitRequest, message)))


def _parsed(kind: type[M], message: bytes) -> M:
    try:
        return kind.FromString(message)
    except DecodeError as error:
        text = f"not a {kind.DESCRIPTOR.name}: send it as leeway.v1 defines it, and without compression"
        raise MalformedError(text) from error


def _flat(request: rollout_pb2.SubmitRequest) -> Iterator[rollout_pb2.SubmitRequest]:
    """Yields the request and those nested in it, in order. The protobuf parser bounds the depth."""
    yield request
    for inner in request.more:
        yield from _flat(inner)


def _require_few_groups(message: bytes) -> None:
    """Raises MalformedError if the message contains too many groups, or fields beside them.

    Looks at the fields of the requests alone. The parser would make a million objects of two megabytes.
    """
    groups, fields = 1, 0
    requests = [(0, len(message))]
    while requests:
        at, end = requests.pop()
        while at < end:
            fields += 1
            tag, at = _varint(message, at)
            wire_type = tag & 7
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 0)
            if wire_type == _VARINT:
                _, at = _varint(message, at)
            elif wire_type == _BYTES:
                size, at = _varint(message, at)
                if tag >> 3 == _MORE:
                    groups += 1
                    requests.append((at, at + size))
            at += size
            if groups > MOST_GROUPS or fields > _MOST_FIELDS:
                text = f"more than {MOST_GROUPS} groups, or {_MOST_FIELDS} fields, in one SubmitRequest: send several"
                raise MalformedError(text)
        if at > end:
            raise MalformedError("not a SubmitRequest: a field is longer than the message around it")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns the number that begins at ``at``, and where what follows begins. Raises MalformedError if it does not end."""
    value = 0
    for shift, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise MalformedError("not a SubmitRequest: a number does not end")
