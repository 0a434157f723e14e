"""One key of a run's data in Redis as a record of a dump: a line of JSON that says what it is, then its content."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from learner.queue.errors import QueueError

PAYLOAD = "payload"  # the serialized group itself
SAME = "same"  # a hash that an earlier record has: only its key is in this one


@dataclass(frozen=True)
class DumpRecord:
    """A key and its content.

    Attributes:
        key: the key's name.
        kind: "string", "hash", "list", "set", "zset", "stream", PAYLOAD or SAME.
        value: bytes of a payload; of the others JSON, in which a byte is the character with its number.
        ttl: seconds that it still has to live; negative: it lives for ever.
    """

    key: str
    kind: str
    value: bytes
    ttl: int = -1

    @classmethod
    def of(cls, key: str, kind: str, ttl: int, content: Any) -> DumpRecord:
        """Makes a record of what Redis returned: bytes, or lists of bytes."""
        return cls(key, kind, json.dumps(_text(content), separators=(",", ":")).encode(), ttl)

    def content(self) -> Any:
        """Returns the content as Redis returned it: bytes, or lists of bytes, for a stream of [id, [field, value, ...]]."""
        return _bytes(json.loads(self.value))

    def encoded(self) -> bytes:
        """Returns the record as ``decoded`` reads it."""
        head = {"key": self.key, "kind": self.kind, "ttl": self.ttl, "bytes": len(self.value)}
        return json.dumps(head).encode() + b"\n" + self.value


def decoded(file: BinaryIO, name: str) -> Iterator[DumpRecord]:
    """Reads the records of a file, one after the other. Raises QueueError, with ``name``, when it is no such file."""
    while line := file.readline():
        try:
            head = json.loads(line)
            record = DumpRecord(head["key"], head["kind"], file.read(head["bytes"]), head["ttl"])
        except (ValueError, KeyError, TypeError) as error:
            raise QueueError(f"{name}: not a dump of a queue ({type(error).__name__}: {error})") from error
        if len(record.value) != head["bytes"]:
            raise QueueError(f"{name}: ends within the content of {record.key}")
        yield record


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Turns [field, value, field, value, ...] into a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _text(content: Any) -> Any:
    return content.decode("latin-1") if isinstance(content, bytes) else [_text(one) for one in content]


def _bytes(content: Any) -> Any:
    return content.encode("latin-1") if isinstance(content, str) else [_bytes(one) for one in content]
