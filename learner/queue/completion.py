"""Taking groups out of the queue for good, once each, whatever Redis forgets."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from learner.queue.entries import GroupRef
from learner.queue.keys import Keys
from learner.queue.redis_session import Call, RedisSession

_BATCH = 500  # groups per script: bounds how long Redis is busy at a stretch
_REMEMBERED_S = 10.0  # with AOF everysec, Redis forgets its last second, or two when the disk is slow


class CompletionWriter:
    """Finishes groups, and finishes again what a Redis that came back may have forgotten.

    With AOF everysec a Redis that was killed forgets its last second: groups that were trained would be queued again, or
    be unknown and welcome a second time. What was finished in the last seconds before an outage is therefore repeated
    after it (``repeat``), and never handed out again (``settled``).

    Args:
        session: with Redis.
        keys: the run's.
        epoch: the learner's; a newer learner's start ends every call with FencedError.
        id_memory_s: how long the id of a finished group is remembered in Redis.
    """

    def __init__(self, session: RedisSession, keys: Keys, epoch: int, id_memory_s: int) -> None:
        self._session = session
        self._keys = keys
        self._epoch = epoch
        self._id_memory_s = id_memory_s
        self._recent: deque[tuple[float, str, int, list[GroupRef]]] = deque()
        self._settled: dict[tuple[str, str], str] = {}
        self._doubtful: set[GroupRef] = set()

    def finish(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> int:
        """How many of ``refs`` were not finished before; the others are left as they are."""
        calls = self._calls("finish", outcome, step, refs)
        finished = sum(self._session.call("finish", keys, arguments) for keys, arguments in calls)
        if doubtful := self._doubtful.intersection(refs):
            for keys, arguments in self._calls(
                "restore", outcome, step, sorted(doubtful, key=lambda ref: ref.entry_id)
            ):
                self._session.call("restore", keys, arguments)
            self._doubtful -= doubtful
        if refs:
            now = time.monotonic()
            self._recent.append((now, outcome, step, list(refs)))
            while self._recent[0][0] < now - _REMEMBERED_S:
                self._recent.popleft()
        return finished

    def repeat(self, held: Iterable[GroupRef]) -> None:
        """After an outage: once more what was finished shortly before it. Asks once; not patient.

        Args:
            held: taken and not finished; Redis may have forgotten that they were ever accepted.
        """
        self._doubtful.update(held)
        for _, outcome, step, refs in list(self._recent):
            for name in ("finish", "restore"):
                for call in self._calls(name, outcome, step, refs):
                    self._session.execute_once(name, [call])
            self.settle(outcome, refs)

    def settle(self, outcome: str, refs: Sequence[GroupRef]) -> None:
        """The groups have had this outcome, whatever Redis remembers."""
        self._settled |= {(ref.fleet, ref.group_id): outcome for ref in refs}

    def settled(self, ref: GroupRef) -> str | None:
        """The outcome the group has had already, when Redis may have forgotten it and taken the group in again."""
        return self._settled.get((ref.fleet, ref.group_id))

    def gone(self, refs: Sequence[GroupRef]) -> int:
        """How many of ``refs`` are not in the queue any more."""

        def read() -> int:
            with self._session.client.pipeline(transaction=False) as pipeline:
                for ref in refs:
                    pipeline.xrange(self._keys.stream(ref.fleet), ref.entry_id, ref.entry_id)
                return sum(not entries for entries in pipeline.execute())

        return self._session.with_retry(read)

    def _calls(self, name: str, outcome: str, step: int, refs: Sequence[GroupRef]) -> Iterator[Call]:
        """Calls of finish.lua or restore.lua, by fleet, in batches."""
        layout: Callable[..., Call] = {"finish": self._finish_call, "restore": self._restore_call}[name]
        for fleet in sorted({ref.fleet for ref in refs}):
            own = [ref for ref in refs if ref.fleet == fleet]
            for start in range(0, len(own), _BATCH):
                yield layout(fleet, [self._epoch, outcome, step, self._id_memory_s], own[start : start + _BATCH])

    def _finish_call(self, fleet: str, arguments: list[Any], refs: Sequence[GroupRef]) -> Call:
        keys = self._keys
        names = [keys.epoch, keys.stream(fleet), keys.ledger(fleet), keys.vanished(fleet), keys.progress, keys.stepped]
        pairs = []
        for ref in refs:
            names += [keys.id(fleet, ref.group_id), keys.payload(fleet, ref.group_id)]
            pairs += [ref.entry_id, ref.group_id]
        return names, [*arguments, fleet, *pairs]

    def _restore_call(self, fleet: str, arguments: list[Any], refs: Sequence[GroupRef]) -> Call:
        keys = self._keys
        names = [keys.epoch, keys.fleets, keys.stream(fleet), keys.ledger(fleet), keys.vanished(fleet)]
        names += [keys.id(fleet, ref.group_id) for ref in refs]
        return names, [*arguments, fleet, *(ref.group_id for ref in refs)]
