"""The place where a group breaks the contract, as the ack of its rejection names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leeway.v1 import rollout_pb2

_SHOWN = 128

PRINTABLE = "printable characters: no control or format characters, no line breaks"

UNKNOWN_VERSION = "unknown_version"
ID_TOO_OLD = "id_too_old"
TOO_STALE = "too_stale"


@dataclass(frozen=True)
class Violation:
    """The place where a group breaks the contract, and what would have been allowed there."""

    reason: str  # a constant, usable as a metric label
    field: str  # path, such as "responses[3].tokens[17]"
    value: str  # the offending value, cut to 128 characters, and what was allowed

    @classmethod
    def of(cls, reason: str, field: str, value: object, allowed: str) -> Violation:
        """Builds a violation; cuts the text of ``value``, and appends ``allowed``, which says what would have been right."""
        text = str(value)
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
        return cls(reason, field, f"{shown} (allowed: {allowed})")


def quoted(text: str) -> str:
    """Quotes as much of a text as a violation shows: the whole may have megabytes."""
    return repr(text[:_SHOWN])


def name_violation(kind: str, field: str, text: str, most: int) -> Violation | None:
    """Checks a name that operators are shown.

    Args:
        kind: begins the reason.
        field: path of the name.
        text: the name.
        most: bytes that it may have.
    """
    if not 1 <= len(text.encode()) <= most:
        return Violation.of(f"{kind}_length", field, quoted(text), f"1 to {most} bytes")
    if not text.isprintable():
        return Violation.of(f"{kind}_characters", field, quoted(text), PRINTABLE)
    return None


def forgotten_violation(group_id: str) -> Violation:
    """Builds the violation of a group that the queue does not know and may have forgotten, so that it may be a duplicate."""
    allowed = "one that the queue still remembers: send a group again within queue.id_memory_s"
    return Violation.of(ID_TOO_OLD, "group_id", group_id, allowed)


def staleness_violation(group: rollout_pb2.Group, staleness: Mapping[int, int], bound: int) -> Violation:
    """Builds the violation of a group that the learner would let expire; it names the first of its most stale spans.

    Args:
        group: a valid group, with spans of at least one of the versions that are too stale.
        staleness: of each version that is too stale, in optimizer steps.
        bound: the greatest staleness at which a group is trained.
    """
    version = max(staleness, key=lambda one: staleness[one])
    text, allowed = f"version {version}, {staleness[version]} steps stale", f"at most {bound} (expire_after)"
    for index, response in enumerate(group.responses[:]):
        segments = [(f".segments[{number}]", segment.spans) for number, segment in enumerate(response.segments[:])]
        for place, spans in [("", response.spans), *segments]:
            for number, span in enumerate(spans[:]):
                if span.version == version:
                    field = f"responses[{index}]{place}.spans[{number}].version"
                    return Violation.of(TOO_STALE, field, text, allowed)
    raise AssertionError(f"version {version} is in none of the group's spans")
