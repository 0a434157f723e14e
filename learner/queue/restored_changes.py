"""The journal of changes in a dump that is restored: the backup that it asks for is made, and not asked for again."""

from __future__ import annotations

from collections.abc import Iterable

from learner.queue.dump_record import DumpRecord, pairs
from learner.queue.keys import Keys
from leeway.v1 import operator_pb2

_REASON = "the run was restored from this backup, or from one that was made at the same time"


def awaited_backups(records: Iterable[DumpRecord], run: str) -> set[bytes]:
    """Numbers of the changes in a dump that wait and ask for a backup."""
    keys = Keys(run)
    return {
        number
        for record in records
        if record.key == keys.changes
        for number, text in pairs(record.content()).items()
        if _waits_for_backup(operator_pb2.RecordedChange.FromString(text))
    }


def settled(record: DumpRecord, run: str, numbers: set[bytes]) -> DumpRecord:
    """Returns a record of a dump in which these changes wait no more; other records are returned as they are."""
    keys = Keys(run)
    if record.key == keys.change_pending:
        kept = {member: score for member, score in pairs(record.content()).items() if member not in numbers}
        return DumpRecord.of(record.key, record.kind, record.ttl, [part for pair in kept.items() for part in pair])
    if record.key == keys.changes:
        changes = {
            number: _done(text) if number in numbers else text for number, text in pairs(record.content()).items()
        }
        return DumpRecord.of(record.key, record.kind, record.ttl, [part for pair in changes.items() for part in pair])
    return record


def _waits_for_backup(record: operator_pb2.RecordedChange) -> bool:
    return record.state == operator_pb2.CHANGE_STATE_PENDING and record.change.WhichOneof("kind") == "backup"


def _done(text: bytes) -> bytes:
    record = operator_pb2.RecordedChange.FromString(text)
    record.state, record.reason = operator_pb2.CHANGE_STATE_APPLIED, _REASON
    record.settled_at.GetCurrentTime()
    return record.SerializeToString(deterministic=True)
