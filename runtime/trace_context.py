"""Identifies a span across processes: W3C trace context (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRACEPARENT = "traceparent"  # the key in a group's metadata


_W3C = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


_SAMPLED = 1


@dataclass(frozen=True)
class SpanContext:
    """Where in which trace: what a child span, or a link, refers to. ``trace``: 32 hex digits, ``span``: 16."""

    trace: str
    span: str

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace}-{self.span}-{_SAMPLED:02x}"

    @classmethod
    def parse(cls, traceparent: str) -> SpanContext | None:
        """None: malformed, or not sampled. A stranger's text may come here."""
        found = _W3C.fullmatch(traceparent)
        if found is None or not int(found[3], 16) & _SAMPLED or not int(found[1], 16) or not int(found[2], 16):
            return None
        return cls(found[1], found[2])

    @classmethod
    def of_version(cls, manifest_sha256: str) -> SpanContext | None:
        """The span "version" of a published version; None when its digest is no digest."""
        if not re.fullmatch(r"[0-9a-f]{64}", manifest_sha256):
            return None
        return cls(manifest_sha256[:32], manifest_sha256[32:48])
