"""Recounts a run from the entries, payloads, ids and leases in Redis, and compares the result with its ledgers.

A live queue changes while it is read. Each page of a stream is read in one script; what is read separately (ids, payloads,
leases) is read twice, and only a discrepancy found both times is reported.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.entries import GroupRef
from learner.queue.errors import QueueError
from learner.queue.keys import ID_BUCKET_MS, Keys
from learner.queue.scripts import script

_PAGE = 1000
_QUIET_ATTEMPTS = 5  # attempts to read a stream of several pages while nothing changes


@dataclass(frozen=True, order=True)
class Discrepancy:
    """A difference between the ledger and what is in Redis, or between two things in Redis."""

    fleet: str  # "" if no fleet is concerned
    kind: str  # one of the constants below: "total", "trimmed", ...
    subject: str  # a group or lease id, or the name of a number
    text: str = field(compare=False)  # the message


@dataclass(frozen=True)
class Recount:
    """Result of a recount."""

    entries: int  # in all streams
    payload_bytes: int  # of the groups in all streams
    remembered: dict[str, int]  # outcome ("queued", "trained", ...) -> ids that Redis remembers with it
    discrepancies: list[Discrepancy]
    unverified: list[str]  # messages on what could not be compared, because the queue kept changing


def recount(config: QueueConfig, trained: Sequence[GroupRef] = (), deadline: float = math.inf) -> Recount:
    """Recounts a run.

    Args:
        config: where the queue is.
        trained: groups that the newest checkpoint contains and that may not have been committed.
        deadline: when to give up, by the monotonic clock.

    Raises:
        QueueError: Redis cannot be read, or everything could not be read before the deadline.
    """
    with contextlib.closing(connect(config)) as client, translated():
        first = _Count(client, Keys(config.run), trained, deadline).run()
        if not first.discrepancies:
            return first
        second = _Count(client, Keys(config.run), trained, deadline).run()
    lasting = sorted(set(first.discrepancies) & set(second.discrepancies))
    return Recount(second.entries, second.payload_bytes, second.remembered, lasting, second.unverified)


class _Count:
    """One count of everything, without repetition."""

    def __init__(self, client: redis.Redis, keys: Keys, trained: Sequence[GroupRef], deadline: float) -> None:
        self._client = client
        self._deadline = deadline
        self._keys = keys
        self._trained = trained
        self._discrepancies: list[Discrepancy] = []
        self._unverified: list[str] = []
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
        return Recount(entries, self._bytes, dict(remembered), sorted(self._discrepancies), self._unverified)

    def _report(self, fleet: str, kind: str, subject: str, text: str) -> None:
        name = f"fleet {fleet!r}: " if fleet else ""
        self._discrepancies.append(Discrepancy(fleet, kind, subject, name + text))

    def _unlisted(self, fleets: Sequence[str]) -> None:
        for prefix in (self._keys.stream_prefix, self._keys.ledger_prefix):
            for name in self._scan(prefix):
                if name not in fleets:
                    self._report(name, "unlisted", prefix, f"{prefix}{name} exists, but the fleet is not in the list")

    def _stream(self, fleet: str) -> None:
        """Checks that every entry has its payload and its id, and that the counters agree with the stream."""
        for _ in range(_QUIET_ATTEMPTS):
            pages = list(self._pages(fleet))
            quiet = all(page[:3] == pages[0][:3] for page in pages)
            if quiet:
                break
        else:
            self._unverified.append(f"fleet {fleet!r}: its stream kept changing and could not be added up")
        entries = [entry for page in pages for entry in page[3]]
        mine = self._entries[fleet] = {}
        total = 0
        for entry_id, group_id, declared, length, state in entries:
            name, entry = group_id.decode(), entry_id.decode()
            total += int(declared or max(0, length))
            self._entry(fleet, name, entry, state.decode(), (declared, length))
            if name in mine:
                self._report(fleet, "twice", name, f"group {name} is in the stream twice: {mine[name]} and {entry}")
            mine[name] = entry
        self._bytes += total
        listed = {entry[0] for entry in entries}
        for entry_id in {pending for page in pages for pending in page[4]} - listed:
            text = f"entry {entry_id.decode()} is pending, but not in the stream: it was trimmed"
            self._report(fleet, "trimmed", entry_id.decode(), text)
        if quiet:
            self._totals(fleet, pages[0], len(entries), total)

    def _entry(self, fleet: str, group_id: str, entry_id: str, state: str, sizes: tuple[bytes, int]) -> None:
        declared, length = sizes
        if length < 0:
            self._report(fleet, "payload_missing", group_id, f"group {group_id} (entry {entry_id}) has no payload")
        elif declared and int(declared) != length:
            text = f"group {group_id}: the entry says {int(declared)} bytes, the payload has {length}"
            self._report(fleet, "payload_size", group_id, text)
        if state != "queued":
            text = f"group {group_id} is in the stream, but its id says {state or 'nothing'!r}, not 'queued'"
            self._report(fleet, "id_not_queued", group_id, text)

    def _totals(self, fleet: str, page: Any, entries: int, total: int) -> None:
        (accepted, finished, accepted_bytes, done_bytes), length, pending, *_ = page
        if length != entries:
            self._report(fleet, "total", "length", f"the stream says {length} entries, {entries} are there")
        if pending > length:
            self._report(fleet, "total", "pending", f"{pending} entries are pending, of {length} in the stream")
        if accepted - finished != entries:
            left = f"accepted - trained - expired - quarantined - lost = {accepted - finished}"
            text = f"{left}, but {entries} are in the stream"
            self._report(fleet, "total", "accepted", text)
        if accepted_bytes - done_bytes != total:
            text = f"bytes - bytes_done = {accepted_bytes - done_bytes}, but the entries hold {total}"
            self._report(fleet, "total", "bytes", text)

    def _pages(self, fleet: str) -> Iterator[Any]:
        keys, code = self._keys, script("recount")
        prefixes = [f"{keys.ids_prefix}{fleet}:", keys.payload(fleet, "")]
        after = "-"
        while True:
            reply: Any = self._client.eval(
                code.text, 2, keys.stream(fleet), keys.ledger(fleet), *prefixes, after, str(_PAGE), str(ID_BUCKET_MS)
            )
            self._require_time()
            yield reply
            if len(reply[3]) < _PAGE:
                return
            after = reply[3][-1][0].decode()

    def _ids(self) -> None:
        """Checks that a group whose id says "queued" is in the stream."""
        for name in self._scan(self._keys.ids_prefix):
            fleet = name.rpartition(":")[0]
            for member, value in self._client.hscan_iter(self._keys.ids_prefix + name, count=_PAGE):
                group_id, outcome = member.decode(), value.decode().partition(":")[0]
                self._remembered[fleet, outcome] += 1
                if outcome == "queued" and group_id not in self._entries.get(fleet, {}):
                    text = f"the id of group {group_id} says 'queued', but the group is not in the stream"
                    self._report(fleet, "not_in_stream", group_id, text)

    def _payloads(self) -> None:
        """Checks that a group whose payload does not expire is in the stream."""
        for names, values in self._read(self._keys.payload_prefix, "ttl"):
            for name, ttl in zip(names, values, strict=True):
                fleet, _, group_id = name.partition(":")
                if ttl == -1 and group_id not in self._entries.get(fleet, {}):
                    text = f"the payload of group {group_id} never expires, but the group is not in the stream"
                    self._report(fleet, "payload_orphaned", group_id, text)

    def _outcomes(self, fleet: str) -> None:
        """Checks that Redis remembers no more ids than were counted; it may remember fewer, because ids expire."""
        for outcome in ("trained", "expired", "quarantined", "lost"):
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
        """Checks that every group in the newest checkpoint was trained, or is pending and will be committed."""
        for ref in self._trained:
            state: Any = self._client.hget(self._keys.ids(ref.fleet, ref.group_id), ref.group_id)
            outcome = (state or b"").decode().partition(":")[0]
            entry = self._entries.get(ref.fleet, {}).get(ref.group_id)
            if outcome in ("expired", "quarantined", "lost"):
                text = f"group {ref.group_id} is in the newest checkpoint, but was counted as {outcome}"
                self._report(ref.fleet, "checkpoint", ref.group_id, text)
            elif entry is not None and entry != ref.entry_id:
                text = (
                    f"group {ref.group_id} is in the newest checkpoint as entry {ref.entry_id}, and queued as {entry}"
                )
                self._report(ref.fleet, "checkpoint", ref.group_id, text)

    def _read(self, prefix: str, command: str) -> Iterator[tuple[list[str], list[Any]]]:
        """Yields batches of the keys under a prefix, without the prefix, with the replies of ``command`` on each key."""
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
        for key in self._client.scan_iter(match=literal(prefix) + "*", count=_PAGE):
            self._require_time()
            yield key.decode().removeprefix(prefix)

    def _require_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise QueueError(
                "the queue could not be recounted in time: it is too long, or Redis too busy; try again later"
            )


def literal(text: str) -> str:
    """Returns a glob pattern that matches only the text itself."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in text)
