"""Reads the fleets' streams: chooses the next entries and takes them, without losing any when a reply never arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from learner.queue.entries import GroupRef, QueueEntry
from learner.queue.fairness import DeficitRoundRobin
from learner.queue.keys import CONSUMER, GROUP, Keys
from learner.queue.redis_session import RedisSession

_PAGE = 1000


class StreamReader:
    """The single consumer of every fleet's stream.

    An entry that was delivered once is pending in Redis until it is finished. Entries that are pending but not in flight in
    this process (a dead learner's, or entries delivered by an XREADGROUP whose reply never arrived) are *recovered*: they
    are handed out before new ones.

    Args:
        session: connection to Redis.
        keys: the run's keys.
        fairness: decides which fleet's entry is next.
    """

    def __init__(self, session: RedisSession, keys: Keys, fairness: DeficitRoundRobin) -> None:
        self._session = session
        self._keys = keys
        self._fairness = fairness
        self._in_flight: dict[tuple[str, str], GroupRef] = {}
        self._recovered: dict[str, deque[QueueEntry]] = {}
        self._must_recover = True  # what is pending in Redis must be read again before the next take

    def next(
        self,
        groups: int,
        epoch: int,
        passed_over: Collection[str] = (),
        reads: Callable[[QueueEntry], bool] = lambda entry: True,
    ) -> list[tuple[QueueEntry, bytes | None]] | None:
        """Takes the next entries with their payloads; they are in flight from then on.

        Args:
            groups: the most to take.
            epoch: this learner's epoch.
            passed_over: fleets whose entries stay where they are.
            reads: whether an entry's payload is read; a payload may have megabytes.

        Returns:
            1 to ``groups`` entries, each with its payload, or None for a payload that is missing or was not to be read. None
            instead of a list if no entry is left. An empty list if the streams changed during the call: call again.

        Raises:
            UnavailableError: Redis did not answer. Nothing is lost: the next call finds out what this one has done.
            FencedError: a newer learner has started.
        """
        if self._must_recover:
            self.recover()
        entries = self._choose(groups, passed_over)
        return self._fetch(entries, epoch, reads) if entries else None

    def recover(self) -> None:
        """Finds the entries that are pending and not in flight. ``next`` calls it when it has to."""
        fleets: Any = self._session.client.smembers(self._keys.fleets)
        recovered = {}
        for fleet in sorted(name.decode() for name in fleets):
            pending = self._pending(fleet)
            recovered[fleet] = deque(e for e in pending if (fleet, e.ref.entry_id) not in self._in_flight)
        self._recovered = recovered
        self._must_recover = False

    def recovered(self) -> int:
        """Number of entries found by ``recover`` and not handed out yet."""
        return sum(map(len, self._recovered.values()))

    def release(self, refs: Iterable[GroupRef]) -> None:
        """Forgets groups that are finished: they are no longer in flight."""
        for ref in refs:
            self._in_flight.pop((ref.fleet, ref.entry_id), None)

    def in_flight(self) -> list[GroupRef]:
        """Lists the groups handed out and neither finished nor put back, in the order they were handed out."""
        return list(self._in_flight.values())

    def put_back(self, refs: Iterable[GroupRef]) -> None:
        """Undoes the take of groups that were not handed out after all: ``next`` returns them again."""
        self.release(refs)
        self._must_recover = True

    def _choose(self, groups: int, passed_over: Collection[str]) -> list[QueueEntry]:
        """Chooses the next entries: fairly over fleets, oldest first within each. Changes nothing in Redis."""
        reply = self._session.execute_once("peek", [([self._keys.fleets], [self._keys.stream_prefix, groups])])[0]
        waiting = {fleet: list(entries)[:groups] for fleet, entries in self._recovered.items()}
        for name, entries in zip(reply[::2], reply[1::2], strict=True):
            fleet = name.decode()
            fresh = [QueueEntry.parse(fleet, key, _mapping(fields)) for key, fields in entries]
            waiting[fleet] = (waiting.get(fleet, []) + fresh)[:groups]
        waiting = {fleet: entries for fleet, entries in waiting.items() if fleet not in passed_over}
        costs = {fleet: [entry.tokens for entry in entries] for fleet, entries in waiting.items()}
        turns = {fleet: iter(entries) for fleet, entries in waiting.items()}
        return [next(turns[fleet]) for fleet in self._fairness.choose(costs, groups)]

    def _fetch(
        self, entries: Sequence[QueueEntry], epoch: int, reads: Callable[[QueueEntry], bool]
    ) -> list[tuple[QueueEntry, bytes | None]]:
        """Takes the entries and reads payloads: a fenced script per fleet and at most one MGET, in one round trip."""
        by_fleet: dict[str, list[QueueEntry]] = {}
        for entry in entries:
            by_fleet.setdefault(entry.ref.fleet, []).append(entry)
        recovered = {fleet: min(len(chosen), len(self._recovered.get(fleet, ()))) for fleet, chosen in by_fleet.items()}
        calls = [
            ([self._keys.epoch, self._keys.stream(fleet)], [epoch, len(chosen) - recovered[fleet]])
            for fleet, chosen in by_fleet.items()
        ]
        read = [entry.ref for entry in entries if reads(entry)]
        names = [self._keys.payload(ref.fleet, ref.group_id) for ref in read]
        self._must_recover = True
        replies = self._session.execute_once("take", calls, read=names)
        payloads = replies.pop() if names else []
        for (fleet, chosen), fresh in zip(by_fleet.items(), replies, strict=True):
            if [entry_id.decode() for entry_id in fresh] != [e.ref.entry_id for e in chosen[recovered[fleet] :]]:
                return []
        payload_of: dict[GroupRef, bytes | None] = dict(zip(read, payloads, strict=True))
        for fleet in by_fleet:
            for _ in range(recovered[fleet]):
                self._recovered[fleet].popleft()
        self._must_recover = False
        # In flight already: Redis lost the last second of its file, take included, and has delivered the group twice.
        new = [entry for entry in entries if (entry.ref.fleet, entry.ref.entry_id) not in self._in_flight]
        self._in_flight |= {(entry.ref.fleet, entry.ref.entry_id): entry.ref for entry in new}
        return [(entry, payload_of.get(entry.ref)) for entry in new]

    def _pending(self, fleet: str) -> list[QueueEntry]:
        entries: list[QueueEntry] = []
        after = "0"
        while True:
            reply: Any = self._session.client.xreadgroup(GROUP, CONSUMER, {self._keys.stream(fleet): after}, _PAGE)
            page = reply[0][1] if reply else []
            # No fields: something else trimmed the stream. Such an entry cannot be restored; the ledger shows its loss.
            entries += [QueueEntry.parse(fleet, key, fields) for key, fields in page if fields]
            if len(page) < _PAGE:
                return entries
            after = page[-1][0].decode()


def _mapping(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
