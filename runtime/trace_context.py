"""Identifiers of a span across processes: W3C trace context (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRACEPARENT = "traceparent"  # the key in a group's metadata
_W3C = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1


@dataclass(frozen=True)
class SpanContext:
    """A span as others refer to it: as the parent of a child span, or in a link.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
    """

    trace_id: str
    span_id: str

    @property
    def traceparent(self) -> str:
        """The context as a W3C traceparent header, with the flag "sampled"."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED:02x}"

    @classmethod
    def parse(cls, traceparent: str) -> SpanContext | None:
        """Reads a traceparent, which need not be trusted; None when it is malformed or not sampled."""
        found = _W3C.fullmatch(traceparent)
        if found is None or not int(found[3], 16) & _SAMPLED or not int(found[1], 16) or not int(found[2], 16):
            return None
        return cls(found[1], found[2])

    @classmethod
    def of_version(cls, manifest_sha256: str) -> SpanContext | None:
        """Context of a published version's span "version", from the SHA-256 of its manifest; None when that is malformed."""
        if not re.fullmatch(r"[0-9a-f]{64}", manifest_sha256):
            return None
        return cls(manifest_sha256[:32], manifest_sha256[32:48])
