"""A second opinion on the ledger: everything is counted again, from what is really there.

A live queue changes under our eyes. Each page of a stream is read in one script; what is read apart (ids, payloads,
leases) is read twice, and only what is wrong both times, in the same place, is reported.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.entries import GroupRef
from learner.queue.keys import Keys
from learner.queue.scripts import script

_PAGE = 1000
_QUIET_ATTEMPTS = 5  # to read a stream of several pages while nothing changes


@dataclass(frozen=True, order=True)
class Discrepancy:
    """Something that is not as the ledger says."""

    fleet: str  # "" when it is nobody's
    kind: str  # a constant
    subject: str  # a group or lease id, or a number's name
    text: str = field(compare=False)  # the whole story, in words


@dataclass(frozen=True)
class Recount:
    """What was found."""

    entries: int  # in all streams
    payload_bytes: int
    remembered: dict[str, int]  # ids in memory, by outcome
    discrepancies: list[Discrepancy]
    unproven: list[str]  # what could not be compared, because the queue did not stand still


def recount(config: QueueConfig, trained: Sequence[GroupRef] = ()) -> Recount:
    """Counts a run again.

    Args:
        config: where the queue is.
        trained: the groups that the newest checkpoint says it contains and that may not have been committed.

    Raises:
        QueueError: Redis cannot be read.
    """
    with contextlib.closing(connect(config)) as client, translated():
        found = _Pass(client, Keys(config.run), trained).run()
        if not found.discrepancies:
            return found
        again = _Pass(client, Keys(config.run), trained).run()
    lasting = sorted(set(found.discrepancies) & set(again.discrepancies))
    return Recount(again.entries, again.payload_bytes, again.remembered, lasting, again.unproven)


class _Pass:
    """One look at everything."""

    def __init__(self, client: redis.Redis, keys: Keys, trained: Sequence[GroupRef]) -> None:
        self._client = client
        self._keys = keys
        self._trained = trained
        self._found: list[Discrepancy] = []
        self._unproven: list[str] = []
        self._entries: dict[str, dict[str, str]] = {}  # fleet -> group id -> entry id
        self._bytes = 0
        self._remembered: Counter[tuple[str, str]] = Counter()  # fleet, outcome

    def run(self) -> Recount:
        members: Any = self._client.smembers(self._keys.fleets)
        fleets = sorted(fleet.decode() for fleet in members)
        self._unlisted(fleets)
        for fleet in fleets:
            self._stream(fleet)
        self._ids()
        self._payloads()
        for fleet in fleets:
            self._outcomes(fleet)
        self._leases()
        self._checkpoint()
        remembered = Counter[str]()
        for (_, outcome), count in self._remembered.items():
            remembered[outcome] += count
        entries = sum(map(len, self._entries.values()))
        return Recount(entries, self._bytes, dict(remembered), sorted(self._found), self._unproven)

    def _report(self, fleet: str, kind: str, subject: str, text: str) -> None:
        name = f"fleet {fleet!r}: " if fleet else ""
        self._found.append(Discrepancy(fleet, kind, subject, name + text))

    def _unlisted(self, fleets: Sequence[str]) -> None:
        for prefix in (self._keys.stream_prefix, self._keys.ledger_prefix):
            for name in self._scan(prefix):
                if name not in fleets:
                    self._report(name, "unlisted", prefix, f"{prefix}{name} exists, but the fleet is not in the list")

    def _stream(self, fleet: str) -> None:
        """Every entry has its payload and its id; the counters agree with the stream."""
        for _ in range(_QUIET_ATTEMPTS):
            pages = list(self._pages(fleet))
            quiet = all(page[:3] == pages[0][:3] for page in pages)
            if quiet:
                break
        else:
            self._unproven.append(f"fleet {fleet!r}: its stream did not stand still long enough to be added up")
        entries = [entry for page in pages for entry in page[3]]
        mine = self._entries[fleet] = {}
        total = 0
        for entry_id, group_id, said, length, memory in entries:
            name, place = group_id.decode(), entry_id.decode()
            total += int(said or max(0, length))
            self._entry(fleet, name, place, memory.decode(), (said, length))
            if name in mine:
                self._report(fleet, "twice", name, f"group {name} is in the stream twice: {mine[name]} and {place}")
            mine[name] = place
        self._bytes += total
        listed = {entry[0] for entry in entries}
        for place in {place for page in pages for place in page[4]} - listed:
            text = f"entry {place.decode()} is pending, but not in the stream: it was trimmed"
            self._report(fleet, "trimmed", place.decode(), text)
        if quiet:
            self._totals(fleet, pages[0], len(entries), total)

    def _entry(self, fleet: str, group_id: str, place: str, memory: str, sizes: tuple[bytes, int]) -> None:
        said, length = sizes
        if length < 0:
            self._report(fleet, "payload_missing", group_id, f"group {group_id} (entry {place}) has no payload")
        elif said and int(said) != length:
            text = f"group {group_id}: the entry says {int(said)} bytes, the payload has {length}"
            self._report(fleet, "payload_size", group_id, text)
        if memory != "queued":
            text = f"group {group_id} is in the stream, but its id says {memory or 'nothing'!r}, not 'queued'"
            self._report(fleet, "id_not_queued", group_id, text)

    def _totals(self, fleet: str, page: Any, entries: int, total: int) -> None:
        (accepted, finished, accepted_bytes, done_bytes), length, pending, *_ = page
        if length != entries:
            self._report(fleet, "total", "length", f"the stream says {length} entries, {entries} are there")
        if pending > length:
            self._report(fleet, "total", "pending", f"{pending} entries are pending, of {length} in the stream")
        if accepted - finished != entries:
            text = f"accepted - trained - expired - lost = {accepted - finished}, but {entries} are in the stream"
            self._report(fleet, "total", "accepted", text)
        if accepted_bytes - done_bytes != total:
            text = f"bytes - bytes_done = {accepted_bytes - done_bytes}, but the entries hold {total}"
            self._report(fleet, "total", "bytes", text)

    def _pages(self, fleet: str) -> Iterator[Any]:
        keys, code = self._keys, script("recount")
        prefixes = [keys.id(fleet, ""), keys.payload(fleet, "")]
        after = "-"
        while True:
            reply: Any = self._client.eval(
                code.text, 2, keys.stream(fleet), keys.ledger(fleet), *prefixes, after, str(_PAGE)
            )
            yield reply
            if len(reply[3]) < _PAGE:
                return
            after = reply[3][-1][0].decode()

    def _ids(self) -> None:
        """An id that says "queued" is in the stream."""
        for names, values in self._read(self._keys.id_prefix, "get"):
            for name, value in zip(names, values, strict=True):
                if value is None:
                    continue
                fleet, _, group_id = name.partition(":")
                outcome = value.decode().partition(":")[0]
                self._remembered[fleet, outcome] += 1
                if outcome == "queued" and group_id not in self._entries.get(fleet, {}):
                    text = f"the id of group {group_id} says 'queued', but the group is not in the stream"
                    self._report(fleet, "not_in_stream", group_id, text)

    def _payloads(self) -> None:
        """A payload that does not expire is in the stream."""
        for names, values in self._read(self._keys.payload_prefix, "ttl"):
            for name, ttl in zip(names, values, strict=True):
                fleet, _, group_id = name.partition(":")
                if ttl == -1 and group_id not in self._entries.get(fleet, {}):
                    text = f"the payload of group {group_id} stays for ever, but the group is not in the stream"
                    self._report(fleet, "payload_orphaned", group_id, text)

    def _outcomes(self, fleet: str) -> None:
        """No more ids are remembered than were counted. (They are forgotten after a while.)"""
        for outcome in ("trained", "expired", "lost"):
            count: Any = self._client.hget(self._keys.ledger(fleet), outcome)
            remembered = self._remembered[fleet, outcome]
            if remembered > int(count or 0):
                text = f"{outcome} = {int(count or 0)}, but {remembered} ids say {outcome!r}"
                self._report(fleet, "outcome", outcome, text)

    def _leases(self) -> None:
        ends: Any = self._client.zrange(self._keys.leases, 0, -1)
        promises: Any = self._client.hgetall(self._keys.lease_remaining)
        for lease in set(ends) ^ set(promises):
            text = "has no end" if lease in promises else "ends, but promises nothing"
            self._report(lease.decode().rpartition("/")[0], "lease", lease.decode(), f"lease {lease.decode()} {text}")
        for lease, groups in promises.items():
            if int(groups) < 1:
                text = f"lease {lease.decode()} promises {int(groups)} groups"
                self._report(lease.decode().rpartition("/")[0], "lease", lease.decode(), text)

    def _checkpoint(self) -> None:
        """What the newest checkpoint contains was trained, or is pending and will be committed."""
        for ref in self._trained:
            memory: Any = self._client.get(self._keys.id(ref.fleet, ref.group_id))
            outcome = (memory or b"").decode().partition(":")[0]
            entry = self._entries.get(ref.fleet, {}).get(ref.group_id)
            if outcome in ("expired", "lost"):
                text = f"group {ref.group_id} is in the newest checkpoint, but was counted as {outcome}"
                self._report(ref.fleet, "checkpoint", ref.group_id, text)
            elif entry is not None and entry != ref.entry_id:
                text = (
                    f"group {ref.group_id} is in the newest checkpoint as entry {ref.entry_id}, and queued as {entry}"
                )
                self._report(ref.fleet, "checkpoint", ref.group_id, text)

    def _read(self, prefix: str, command: str) -> Iterator[tuple[list[str], list[Any]]]:
        """Every key under the prefix (the rest of its name) and what ``command`` says of it, a batch at a time."""
        batch: list[str] = []
        for name in self._scan(prefix):
            batch.append(name)
            if len(batch) == _PAGE:
                yield batch, self._all(prefix, batch, command)
                batch = []
        if batch:
            yield batch, self._all(prefix, batch, command)

    def _all(self, prefix: str, names: Sequence[str], command: str) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.execute_command(command, prefix + name)
            return pipeline.execute()

    def _scan(self, prefix: str) -> Iterator[str]:
        for key in self._client.scan_iter(match=_literal(prefix) + "*", count=_PAGE):
            yield key.decode().removeprefix(prefix)


def _literal(text: str) -> str:
    """A glob pattern that matches the text itself."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in text)
