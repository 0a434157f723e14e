"""Reads everything that a run has in Redis, as it was at one instant, while gateways and learner go on.

One script that read all of it would stop Redis for as long as the payloads take. So what cannot change any more is read
before: payloads of waiting groups, which nobody ever rewrites, and the ids of groups that have all left the queue, whose
outcomes are final. One script (dump.lua) then reads the rest at one instant, and says of those ids whether there are still as
many. Payloads of groups that were accepted meanwhile are read after it. A key that was made between the list of names and
the script shows in a second list: then the script runs again. Groups that were in flight are in the dump like those that
wait: whoever begins with it has nothing in flight.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.dump_record import PAYLOAD, SAME, DumpRecord, pairs
from learner.queue.errors import QueueError
from learner.queue.keys import Keys
from learner.queue.recount import literal
from learner.queue.schema import require_schema
from learner.queue.scripts import script
from learner.queue.witness import Halt, Witness

_PAGE = 500  # entries of a stream that are read at once
_BATCH_BYTES = 8 << 20  # of payloads that are read at once
_LIST_PAGE = 50  # entries of the quarantine, of some 90 KB at most
_TRIES = 10  # of the script, while new keys keep appearing


@dataclass(frozen=True)
class WaitingGroup:
    """A group that a dump's streams refer to.

    Attributes:
        payload: key of its payload.
        size: bytes of its payload.
        versions: oldest and newest version of each epoch that generated it.
    """

    payload: str
    size: int
    versions: tuple[int, ...]


@dataclass(frozen=True)
class QueueSnapshot:
    """What a run had in Redis at one instant, but for payloads and for what was read before.

    Attributes:
        records: every key.
        witness: the numbers by which the data is recognised.
        queued: fleet -> groups that wait or are in flight.
        groups: all these groups.
        versions: every version that was announced.
        pinned: versions that operators keep.
        halt: why the queue stands still; None while it does not.
        script_s: seconds that the script took, round trip included: for so long gateways had no answer from Redis.
    """

    records: list[DumpRecord]
    witness: Witness
    queued: dict[str, int]
    groups: list[WaitingGroup]
    versions: set[int]
    pinned: set[int]
    halt: Halt | None
    script_s: float


class QueueDump:
    """Reads one run's data; a context manager. Every method raises QueueError when Redis cannot be used.

    Args:
        config: where the queue is.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._client = connect(config)
        self._keys = Keys(config.run)
        self._run = config.run
        self._payloads: set[str] = set()  # keys of the payloads that were read
        self._settled: dict[str, int] = {}  # hashes of ids that were read -> number of their fields

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ahead(self) -> Iterator[DumpRecord]:
        """Yields what cannot change any more and was not yielded before: payloads of waiting groups, and settled ids."""
        with translated():
            for name in self._names():
                if name.startswith(self._keys.ids_prefix) and name not in self._settled:
                    values: Any = self._client.hgetall(name)
                    if values and b"queued" not in values.values():
                        self._settled[name] = len(values)
                        yield DumpRecord.of(name, "hash", -1, [part for pair in values.items() for part in pair])
            fleets: Any = self._client.smembers(self._keys.fleets)
            for fleet in sorted(name.decode() for name in fleets):
                for entries in self._pages(fleet):
                    yield from self._read_payloads(_waiting(self._keys, fleet, entries))

    def snapshot(self) -> QueueSnapshot:
        """Reads the rest at one instant. Raises QueueError if the data is of another schema, or there is none."""
        names = self._names() | _fixed(self._keys)
        with translated():
            for _ in range(_TRIES):
                ordered = sorted(names)
                known = [self._settled.get(name, "") for name in ordered]
                started = time.monotonic()
                reply: Any = self._client.eval(script("dump").text, len(ordered), *ordered, *known)
                script_s = time.monotonic() - started
                appeared = self._names() - names
                if not appeared:
                    quarantine = self._quarantine()
                    found = {ordered[row[0] - 1]: (row[1].decode(), row[2], row[3]) for row in reply}
                    return self._parsed(found, quarantine, script_s)
                names |= appeared
        raise QueueError(f"run {self._run!r}: new keys appear in Redis all the time: try again")

    def late(self, snapshot: QueueSnapshot) -> Iterator[DumpRecord]:
        """Yields payloads of the snapshot's groups that were not read yet."""
        with translated():
            yield from self._read_payloads(snapshot.groups)

    def has_all(self, snapshot: QueueSnapshot) -> bool:
        """Whether the payload of every group of the snapshot was read; one that left the queue since may be gone."""
        return all(group.payload in self._payloads for group in snapshot.groups)

    def _names(self) -> set[str]:
        """Names of the run's keys, without payloads, and without what need not agree with the rest."""
        keys, prefix = self._keys, self._keys.schema.removesuffix("schema")
        with translated():
            found = {name.decode() for name in self._client.scan_iter(match=literal(prefix) + "*", count=1000)}
        apart = {keys.probe, keys.quarantine}
        return {name for name in found - apart if not name.startswith(keys.payload_prefix)}

    def _pages(self, fleet: str) -> Iterator[Any]:
        first = "-"
        while True:
            entries: Any = self._client.xrange(self._keys.stream(fleet), first, count=_PAGE)
            yield entries
            if len(entries) < _PAGE:
                return
            first = "(" + entries[-1][0].decode()

    def _read_payloads(self, groups: Iterable[WaitingGroup]) -> Iterator[DumpRecord]:
        batch: list[str] = []
        size = 0
        for group in groups:
            if group.payload not in self._payloads:
                batch.append(group.payload)
                size += group.size
            if size >= _BATCH_BYTES:
                yield from self._read_batch(batch)
                batch, size = [], 0
        yield from self._read_batch(batch)

    def _read_batch(self, batch: Sequence[str]) -> Iterator[DumpRecord]:
        if not batch:
            return
        values: Any = self._client.mget(batch)
        for name, value in zip(batch, values, strict=True):
            if value is not None:
                self._payloads.add(name)
                yield DumpRecord(name, PAYLOAD, value)

    def _quarantine(self) -> list[bytes]:
        """Reads the groups that are kept for the operator, page by page: they are large, and no number depends on them."""
        kept: list[bytes] = []
        while True:
            page: Any = self._client.lrange(self._keys.quarantine, len(kept), len(kept) + _LIST_PAGE - 1)
            kept += page
            if len(page) < _LIST_PAGE:
                return kept

    def _parsed(self, found: dict[str, Any], quarantine: list[bytes], script_s: float) -> QueueSnapshot:
        keys = self._keys

        def content(name: str, default: Any) -> Any:
            return found[name][2] if name in found else default

        schema = content(keys.schema, None)
        require_schema(schema, keys)
        if schema is None:
            raise QueueError(f"run {self._run!r}: it has no data in Redis: nothing can be backed up")
        fleets = sorted(name.decode() for name in content(keys.fleets, []))
        ledgers = {fleet: pairs(content(keys.ledger(fleet), [])) for fleet in fleets}
        streams = {fleet: content(keys.stream(fleet), []) for fleet in fleets}
        halt = content(keys.halted, None)
        witness = Witness(
            nonce=content(keys.nonce, b"").decode(),
            clock=int(pairs(content(keys.clock, [])).get(b"now", 0)),
            epoch=int(content(keys.epoch, 0)),
            step=int(pairs(content(keys.progress, [])).get(b"step", 0)),
            accepted={fleet: int(ledger.get(b"accepted", 0)) for fleet, ledger in ledgers.items()},
            trained={fleet: int(ledger.get(b"trained", 0)) for fleet, ledger in ledgers.items()},
            reported=int(pairs(content(keys.progress, [])).get(b"epoch", 0)),
        )
        records = [DumpRecord.of(name, *row) for name, row in found.items()]
        return QueueSnapshot(
            records=[*records, *([DumpRecord.of(keys.quarantine, "list", -1, quarantine)] if quarantine else [])],
            witness=witness,
            queued={fleet: len(entries) for fleet, entries in streams.items()},
            groups=[group for fleet, entries in streams.items() for group in _waiting(keys, fleet, entries)],
            versions={int(pairs(fields)[b"version"]) for _, fields in content(keys.versions, [])},
            pinned={int(version) for version in content(keys.pinned, [])},
            halt=None if halt is None else Halt.parse(halt.decode()),
            script_s=script_s,
        )


def _fixed(keys: Keys) -> set[str]:
    """Names that every run may have, whether they were there when the names were listed or not."""
    names = {name for field, name in vars(keys).items() if not field.startswith("_") and not field.endswith("_prefix")}
    return names - {keys.probe, keys.quarantine}


def _waiting(keys: Keys, fleet: str, entries: Iterable[Any]) -> Iterator[WaitingGroup]:
    """Parses entries as redis-py returns them (fields as a mapping) or a script does (a flat list)."""
    for _, fields in entries:
        values = fields if isinstance(fields, dict) else pairs(fields)
        versions = tuple(int(version) for version in values[b"versions"].split(b",") if version)
        yield WaitingGroup(keys.payload(fleet, values[b"id"].decode()), int(values[b"bytes"]), versions)


def wanted(records: Iterable[DumpRecord], run: str) -> set[str]:
    """Names of the keys of earlier records that a snapshot's records refer to: payloads of its groups, and settled ids."""
    keys, found = Keys(run), set[str]()
    for record in records:
        if record.kind == SAME:
            found.add(record.key)
        elif record.kind == "stream" and record.key.startswith(keys.stream_prefix):
            fleet = record.key.removeprefix(keys.stream_prefix)
            found.update(group.payload for group in _waiting(keys, fleet, record.content()))
    return found


def moved(record: DumpRecord, run: str, old: str, new: str) -> DumpRecord:
    """Returns the record with the URIs of announced versions that are below ``old`` replaced by those below ``new``."""
    if record.key != Keys(run).versions:
        return record
    before, after = (json.dumps(uri.rstrip("/") + "/")[:-1].encode() for uri in (old, new))
    entries = [[id_, [value.replace(before, after) for value in fields]] for id_, fields in record.content()]
    return DumpRecord.of(record.key, record.kind, record.ttl, entries)
