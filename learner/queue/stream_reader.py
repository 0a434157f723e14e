"""Reading the fleets' streams: what comes next, and making it ours without losing any when a reply is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from learner.queue.entries import GroupRef, QueueEntry
from learner.queue.fairness import DeficitRoundRobin
from learner.queue.keys import CONSUMER, GROUP, Keys
from learner.queue.redis_session import RedisSession

_PAGE = 1000


class StreamReader:
    """The single consumer of every fleet's stream.

    An entry that was delivered once is pending in Redis until it is finished. Those that are pending but not held by this
    process (a dead learner's, or the loot of a take whose reply was lost) are *recovered*, and come before new ones.
    """

    def __init__(self, session: RedisSession, keys: Keys, fairness: DeficitRoundRobin) -> None:
        self._session = session
        self._keys = keys
        self._fairness = fairness
        self._held: dict[tuple[str, str], GroupRef] = {}
        self._recovered: dict[str, deque[QueueEntry]] = {}
        self._uncertain = True

    def next(self, groups: int, epoch: int) -> list[tuple[QueueEntry, bytes | None]] | None:
        """The next 1 to ``groups`` entries with their payloads, from now on held by us; None when nothing waits.

        A payload is None when it is not there. The list is empty when the streams have changed under us: ask again.
        The same after UnavailableError: nothing is lost, the next call finds out what this one has done.

        Raises:
            UnavailableError: see above.
            FencedError: a newer learner has started.
        """
        if self._uncertain:
            self.recover()
        entries = self._choose(groups)
        return self._fetch(entries, epoch) if entries else None

    def recover(self) -> None:
        """Finds what is pending and not held. Needed once before the first take; repeats itself after a lost reply."""
        fleets: Any = self._session.client.smembers(self._keys.fleets)
        recovered = {}
        for fleet in sorted(name.decode() for name in fleets):
            pending = self._pending(fleet)
            recovered[fleet] = deque(e for e in pending if (fleet, e.ref.entry_id) not in self._held)
        self._recovered = recovered
        self._uncertain = False

    def recovered(self) -> int:
        """Entries found by ``recover`` and not handed out yet."""
        return sum(map(len, self._recovered.values()))

    def release(self, refs: Iterable[GroupRef]) -> None:
        """The groups are finished."""
        for ref in refs:
            self._held.pop((ref.fleet, ref.entry_id), None)

    def held(self) -> list[GroupRef]:
        """Handed out, and neither finished nor put back."""
        return list(self._held.values())

    def put_back(self, refs: Iterable[GroupRef]) -> None:
        """The groups were not handed out after all; they come again."""
        self.release(refs)
        self._uncertain = True

    def _choose(self, groups: int) -> list[QueueEntry]:
        """Which entries come next: fairly over fleets, oldest first within each. Changes nothing in Redis."""
        reply = self._session.execute_once("peek", [([self._keys.fleets], [self._keys.stream_prefix, groups])])[0]
        waiting = {fleet: list(entries)[:groups] for fleet, entries in self._recovered.items()}
        for name, entries in zip(reply[::2], reply[1::2], strict=True):
            fleet = name.decode()
            fresh = [QueueEntry.parse(fleet, key, _mapping(fields)) for key, fields in entries]
            waiting[fleet] = (waiting.get(fleet, []) + fresh)[:groups]
        costs = {fleet: [entry.tokens for entry in entries] for fleet, entries in waiting.items()}
        turns = {fleet: iter(entries) for fleet, entries in waiting.items()}
        return [next(turns[fleet]) for fleet in self._fairness.choose(costs, groups)]

    def _fetch(self, entries: Sequence[QueueEntry], epoch: int) -> list[tuple[QueueEntry, bytes | None]]:
        """Makes the entries ours and reads their payloads: a fenced script per fleet and one MGET, in one round trip."""
        by_fleet: dict[str, list[QueueEntry]] = {}
        for entry in entries:
            by_fleet.setdefault(entry.ref.fleet, []).append(entry)
        old = {fleet: min(len(chosen), len(self._recovered.get(fleet, ()))) for fleet, chosen in by_fleet.items()}
        calls = [
            ([self._keys.epoch, self._keys.stream(fleet)], [epoch, len(chosen) - old[fleet]])
            for fleet, chosen in by_fleet.items()
        ]
        names = [self._keys.payload(entry.ref.fleet, entry.ref.group_id) for entry in entries]
        self._uncertain = True
        *replies, payloads = self._session.execute_once("take", calls, read=names)
        for (fleet, chosen), fresh in zip(by_fleet.items(), replies, strict=True):
            if [entry_id.decode() for entry_id in fresh] != [e.ref.entry_id for e in chosen[old[fleet] :]]:
                return []
        found: dict[GroupRef, bytes | None] = dict(zip([entry.ref for entry in entries], payloads, strict=True))
        for fleet in by_fleet:
            for _ in range(old[fleet]):
                self._recovered[fleet].popleft()
        self._uncertain = False
        # Held already: Redis lost the last second of its file, take included, and has delivered the group twice.
        new = [entry for entry in entries if (entry.ref.fleet, entry.ref.entry_id) not in self._held]
        self._held |= {(entry.ref.fleet, entry.ref.entry_id): entry.ref for entry in new}
        return [(entry, found[entry.ref]) for entry in new]

    def _pending(self, fleet: str) -> list[QueueEntry]:
        entries: list[QueueEntry] = []
        after = "0"
        while True:
            reply: Any = self._session.client.xreadgroup(GROUP, CONSUMER, {self._keys.stream(fleet): after}, _PAGE)
            page = reply[0][1] if reply else []
            # No fields: somebody else trimmed the stream. Such an entry cannot be found again; the ledger shows it.
            entries += [QueueEntry.parse(fleet, key, fields) for key, fields in page if fields]
            if len(page) < _PAGE:
                return entries
            after = page[-1][0].decode()


def _mapping(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
