"""Tests of the records of a dump: every byte comes back, and what is no dump is refused."""

from __future__ import annotations

import io

import pytest

from learner.queue.dump_record import DumpRecord, decoded, pairs
from learner.queue.errors import QueueError

ANY = bytes(range(256))
RECORDS = [
    DumpRecord.of("a", "string", -1, ANY),
    DumpRecord.of("s", "stream", 60, [[b"1-0", [b"field", ANY]]]),
    DumpRecord("p", "payload", ANY * 3),
    DumpRecord.of("empty", "hash", -1, []),
]


def test_records_are_read_as_they_were_written():
    content = b"".join(record.encoded() for record in RECORDS)
    assert list(decoded(io.BytesIO(content), "file")) == RECORDS
    assert RECORDS[0].content() == ANY
    assert RECORDS[1].content() == [[b"1-0", [b"field", ANY]]]
    assert pairs([b"a", b"1", b"b", b"2"]) == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize("content", [b"something else\n", b'{"key": "a"}\n', RECORDS[0].encoded()[:-1]])
def test_what_is_no_dump_is_refused(content: bytes):
    with pytest.raises(QueueError, match=r"^file: "):
        list(decoded(io.BytesIO(content), "file"))
