"""Makes messages as a hostile or broken fleet would send them: valid ones, broken ones, and damaged bytes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import tokens, uuid7

VERSIONS = (0, 1, 7)
STALE = 5  # a version of the run that is too old
_EVIL_FLOATS = (float("nan"), float("inf"), float("-inf"), -0.0, 1e308, -1e308, 5e-324, 10.0, 10.000001, -11.0)
_EVIL_INTS = (0, 1, 2, 3, 4, 5, 127, 128, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_HUGE_VARINTS = (b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\xff" * 5 + b"\x7f", b"\x80" * 9 + b"\x00", b"\xff\xff\xff\x7f")


def valid(rng: random.Random) -> pb.SubmitRequest:
    """Makes a small request that breaks no rule."""
    length = rng.choice((1, 2, 5, 16))
    responses = []
    for _ in range(rng.randint(2, 4)):
        ids = [rng.randrange(100) for _ in range(length)]
        cut = rng.randint(1, length)
        spans = [pb.Span(version=rng.choice(VERSIONS), start=0, end=cut)]
        if cut < length:
            spans.append(pb.Span(version=rng.choice(VERSIONS), start=cut, end=length))
        responses.append(pb.Response(tokens=tokens(ids), reward=rng.uniform(-10, 10), spans=spans))
    group = pb.Group(
        group_id=uuid7(), prompt_id=f"p{rng.randrange(999)}", prompt_tokens=tokens([1, 2, 3]), task="sort",
        temperature=1.0, responses=responses,
    )  # fmt: skip
    if rng.random() < 0.3:
        group.metadata["key"] = "value"
        group.responses[0].reward_parts["exact"] = 1.0
    if rng.random() < 0.3:
        group.responses[-1].CopyFrom(_segmented(rng))
    if rng.random() < 0.3:
        group.responses[1].unscored = rng.choice(("crash", "reward_timeout", "a" + "_9" * 31))
        group.responses[1].reward = rng.choice(_EVIL_FLOATS)
        if rng.random() < 0.5:
            for field in ("tokens", "spans", "segments"):
                group.responses[1].ClearField(field)
    if rng.random() < 0.1:
        group.sampling.top_p = 1.0
    return pb.SubmitRequest(sequence=rng.getrandbits(20), group=group, lease_id="0" * 32)


def _segmented(rng: random.Random) -> pb.Response:
    """Makes a valid response of at most three segments, 24 tokens in all."""
    response = pb.Response(reward=rng.uniform(-10, 10))
    for _ in range(rng.randint(1, 3)):
        context, size = rng.randint(1, 4), rng.randint(1, 4)
        response.segments.add(
            context_tokens=tokens([rng.randrange(100) for _ in range(context)]),
            tokens=tokens([rng.randrange(100) for _ in range(size)]),
            spans=[pb.Span(version=rng.choice(VERSIONS), start=0, end=rng.randint(1, size))],
        )
    return response


def broken(rng: random.Random) -> pb.SubmitRequest:
    """Makes a request that is well-formed on the wire and breaks a rule, or just keeps it."""
    request = valid(rng)
    rng.choice(_RULES)(rng, request.group)
    return request


def _tokens(rng: random.Random, group: pb.Group) -> None:
    ids = [rng.choice((-1, 0, 99, 100, 101, 2**31 - 1, -(2**31))) for _ in range(rng.randint(0, 3))]
    data = tokens(ids) + rng.randbytes(rng.choice((0, 0, 1, 2, 3)))
    if rng.random() < 0.5:
        group.prompt_tokens = data
    else:
        rng.choice(group.responses).tokens = data


def _spans(rng: random.Random, group: pb.Group) -> None:
    response = rng.choice(group.responses)
    del response.spans[rng.randint(0, len(response.spans)) :]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        start, end, version = (rng.choice(_EVIL_INTS) for _ in range(3))
        response.spans.append(pb.Span(version=rng.choice((version, STALE, *VERSIONS)), start=start, end=end))


def _numbers(rng: random.Random, group: pb.Group) -> None:
    if rng.random() < 0.4:
        evil = rng.choice((*_EVIL_FLOATS, 1e-38, 1e-6, 0.05, 0.049999, 0.7))
        group.temperature = min(max(evil, -3e38), 3e38)
    elif rng.random() < 0.5:
        rng.choice(group.responses).reward = rng.choice(_EVIL_FLOATS)
    else:
        rng.choice(group.responses).reward_parts[rng.choice(("", "a", "\x00", "x" * 65))] = rng.choice(_EVIL_FLOATS)


def _texts(rng: random.Random, group: pb.Group) -> None:
    texts = ("", "x" * 64, "x" * 65, "é" * 128, "é" * 129, "\x00", "\U0001f600", "../../x", "{}:*\r\n")
    text = rng.choice((*texts, "a\x1b[2J", "\u202e", "\u2028", "[red]"))
    field = rng.choice(("group_id", "prompt_id", "task"))
    if field == "group_id" and rng.random() < 0.7:
        text = rng.choice((group.group_id.upper(), group.group_id[:-1], group.group_id + "\n", "7" * 36, "é" * 36))
    setattr(group, field, text)


def _metadata(rng: random.Random, group: pb.Group) -> None:
    for number in range(rng.choice((1, 31, 32, 33))):
        group.metadata[f"{number}" if rng.random() < 0.9 else "\x07"] = "v" * rng.choice((0, 1, 127))


def _counts(rng: random.Random, group: pb.Group) -> None:
    response = group.responses[0]
    most = rng.choice((0, 1, 8, 9, 300))
    del group.responses[:]
    group.responses.extend([response] * most)


def _parts(rng: random.Random, group: pb.Group) -> None:
    for number in range(rng.choice((32, 33))):
        group.responses[-1].reward_parts[f"{number}"] = 1.0


def _times(rng: random.Random, group: pb.Group) -> None:
    group.created_at.seconds = rng.choice((0, -1, 946_684_799, 946_684_800, 1_700_000_000, 2**40, 2**63 - 1, -(2**63)))
    group.created_at.nanos = rng.choice((0, 0, -1, 999_999_999, 10**9, 2**31 - 1))


def _ages(rng: random.Random, group: pb.Group) -> None:
    """Moves the time in the group's id to either side of what is remembered, or far away."""
    seconds = rng.choice((0, -85_000, -86_000, -86_401, -(10**8), 590, 660, 86_400, 10**8))
    milliseconds = (int(time.time() + seconds) * 1000) & (1 << 48) - 1
    group.group_id = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}{group.group_id[13:]}"


def _reasons(rng: random.Random, group: pb.Group) -> None:
    rng.choice(group.responses).finish_reason = rng.choice((0, 1, 2, 3, 4, -1, 2**31 - 1))  # pyright: ignore


def _segments(rng: random.Random, group: pb.Group) -> None:
    """Breaks a segment, the form of its response, or the limit on all of them."""
    response = rng.choice(group.responses)
    if rng.random() < 0.7:
        response.CopyFrom(_segmented(rng))
    kind = rng.randrange(6)
    if kind == 0:
        response.tokens = tokens([1] * rng.choice((0, 1)))
    elif kind == 1:
        response.spans.add(version=1, start=0, end=1)
    elif kind == 2:
        response.segments.extend([_segmented(rng).segments[0]] * rng.choice((1, 5, 255, 256)))
    elif response.segments:
        segment = rng.choice(response.segments)
        if kind == 3:
            segment.context_tokens = tokens([rng.choice((0, 99, 100, -1))] * rng.choice((0, 1, 9, 25, 32, 33)))
        elif kind == 4:
            segment.tokens = tokens([1] * rng.choice((0, 1, 16, 17))) + b"\x00" * rng.choice((0, 1))
        else:
            del segment.spans[:]
            segment.spans.add(version=rng.choice((STALE, *VERSIONS, 3)), start=rng.choice(_EVIL_INTS), end=2)


def _unscored(rng: random.Random, group: pb.Group) -> None:
    reasons = ("a", "A", "1a", "_a", "a" * 64, "a" * 65, "a b", "a\n", "é", "\x00", "reward_timeout")
    reason = rng.choice(reasons) if rng.random() < 0.5 else "crash"
    for response in group.responses[: rng.choice((1, 2, 8))]:
        response.unscored = reason
        if rng.random() < 0.8:
            del response.spans[:]
            del response.segments[:]
        if rng.random() < 0.4:
            response.tokens = b""


def _sampling(rng: random.Random, group: pb.Group) -> None:
    evil = (0.0, 1.0, 1.0000001, 0.9999999, 0.5, -0.0, float("nan"), float("inf"), 1e-45)
    if rng.random() < 0.5:
        group.sampling.top_p = rng.choice(evil)
    if rng.random() < 0.5:
        group.sampling.min_p = rng.choice(evil)
    if rng.random() < 0.5:
        group.sampling.top_k = rng.choice((0, 1, 99, 100, 101, 2**32 - 1))


_RULES: Sequence[Callable[[random.Random, pb.Group], None]] = (
    _tokens, _tokens, _spans, _spans, _numbers, _numbers, _texts, _metadata, _counts, _parts, _times,
    _reasons, _ages, _segments, _segments, _unscored, _unscored, _sampling,
)  # fmt: skip


def lease(rng: random.Random) -> pb.LeaseRequest:
    """Makes a request for a lease that keeps or just breaks a limit."""
    texts = ("w", "x" * 64, "x" * 65, "é" * 32, "é" * 33, "\x07", "[red]", "\u202e")
    request = pb.LeaseRequest(groups=rng.choice((0, 0, 1, 2**32 - 1)), worker=rng.choice(texts))
    for ids in (request.returned_lease_ids, request.held_lease_ids):
        ids.extend([rng.choice(("0" * 32, "x" * 64, "x" * 65, "", "\x00"))] * rng.choice((0, 0, 1, 1024, 1025)))
    if rng.random() < 0.5:
        request.running_version = rng.choice(_EVIL_INTS)
        request.fetching_version = rng.choice(_EVIL_INTS)
    return request


def mangled(rng: random.Random, message: bytes, other: bytes) -> bytes:
    """Damages the bytes of a message in one of many ways, some of which insert pieces of ``other``."""
    data = bytearray(message)
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(12)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[rng.randrange(len(data))] = rng.choice((0, 0x7F, 0x80, 0xFF, 0x0B, 0x0C))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + rng.randint(1, 16)]
    elif kind == 4:  # a piece twice
        data[at:at] = data[at : at + rng.randint(1, 32)]
    elif kind == 5:  # two messages in one: fields twice, merged
        data += other
    elif kind == 6:  # the first part of one, the last of another
        data[at:] = other[rng.randrange(len(other) + 1) :]
    elif kind == 7:  # a length or number that lies
        data[at : at + 1] = rng.choice(_HUGE_VARINTS)
    elif kind == 8:  # an unknown field, or a known one of another wire type
        data[at:at] = bytes((rng.randrange(1, 16) << 3 | rng.randrange(8), rng.randrange(128))) + rng.randbytes(3)
    elif kind == 9:
        data[at:at] = rng.choice((b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"))
    elif kind == 10:
        data[at:at] = b"\x7b" * rng.choice((1, 99, 101, 3000))  # groups (field 15) opened and never closed
    else:
        return rng.randbytes(rng.randrange(64))
    return bytes(data)


class Corpus:
    """A stream of messages that its seed determines.

    Args:
        seed: determines everything that is drawn, except group ids.
        size: how many well-formed messages are kept to be mangled; they are replaced over time.
    """

    def __init__(self, seed: int, size: int = 512) -> None:
        self._rng = random.Random(seed)
        self._messages = [self._drawn() for _ in range(size)]

    def next(self) -> bytes:
        """Returns the next message: as drawn (1 in 4), or mangled once or twice."""
        rng, messages = self._rng, self._messages
        number = rng.randrange(len(messages))
        kind = rng.randrange(32)
        if kind == 0:
            messages[number] = self._drawn()
        if kind < 8:
            return messages[number]
        message = mangled(rng, messages[number], messages[number - 1])
        return mangled(rng, message, messages[number - 1]) if kind < 12 and message else message

    def lease(self) -> bytes:
        """Returns a request for a lease, mangled every other time."""
        message = lease(self._rng).SerializeToString()
        return mangled(self._rng, message, message) if message and self._rng.random() < 0.5 else message

    def giant(self) -> bytes:
        """Makes a message with very many small fields."""
        rng = self._rng
        part = rng.choice(("responses", "spans", "segments", "metadata", "unknown"))
        request = valid(rng)
        if part == "responses":
            request.group.responses.extend([pb.Response()] * 20_000)
        elif part == "spans":
            request.group.responses[0].spans.extend([pb.Span(version=1, start=0, end=1)] * 20_000)
        elif part == "segments":
            request.group.responses[0].segments.extend([pb.Segment()] * 20_000)
        elif part == "metadata":
            for number in range(10_000):
                request.group.metadata[str(number)] = "x"
        return request.SerializeToString() + (b"\x78\x01" * 50_000 if part == "unknown" else b"")

    def _drawn(self) -> bytes:
        rng = self._rng
        request = (valid if rng.random() < 0.5 else broken)(rng)
        if rng.random() < 0.1:  # several groups in one message, side by side and one in the other
            for make in (valid, broken, valid)[: rng.randint(1, 3)]:
                inner = request.more.add() if rng.random() < 0.7 else request.more.add().more.add()
                inner.CopyFrom(make(rng))
        data = request.SerializeToString()
        if rng.random() < 0.01:
            for _ in range(rng.choice((20, 99, 101, 150))):  # field 4 in field 4 in field 4: about as deep as is read
                data = b"\x22" + _varint(len(data)) + data
        return data


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))
