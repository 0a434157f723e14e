"""Takes groups out of the queue for good, each exactly once, even if Redis loses its last second of writes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from learner.queue.entries import GroupRef
from learner.queue.keys import Keys
from learner.queue.redis_session import Call, RedisSession
from learner.queue.witness import REPAIRED_S

_BATCH = 500  # groups per script: bounds how long one script keeps Redis busy


class CompletionWriter:
    """Finishes groups, and finishes them again if Redis may have lost that in a restart.

    With AOF everysec a Redis that was killed loses its last second of writes: trained groups would be queued again, or
    their ids would be unknown, so that they would be accepted a second time. Completions of the last seconds before an
    outage are therefore written again after it (``repeat``), and those groups are never handed out again
    (``completed_as``).

    Args:
        session: connection to Redis.
        keys: the run's keys.
        epoch: this learner's epoch; once a newer learner has started, every call raises FencedError.
    """

    def __init__(self, session: RedisSession, keys: Keys, epoch: int) -> None:
        self._session = session
        self._keys = keys
        self._epoch = epoch
        self._recent: deque[tuple[float, str, int, list[GroupRef]]] = deque()
        self._completed: dict[tuple[str, str], str] = {}  # fleet, group id -> outcome
        self._uncertain: set[GroupRef] = set()  # Redis may have forgotten that it ever accepted them

    def finish(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> int:
        """Finishes groups that are not finished yet, and changes nothing for the others.

        Args:
            outcome: "trained", "expired", "quarantined" or "lost".
            step: optimizer step, written into the memory of the groups' ids.
            refs: the groups.

        Returns:
            How many of ``refs`` were finished by this call.

        Raises:
            FencedError: a newer learner has started.
            UnavailableError: Redis did not answer within the session's limit.
        """
        calls = self._calls("finish", outcome, step, refs)
        finished = sum(self._session.call("finish", keys, arguments) for keys, arguments in calls)
        if uncertain := self._uncertain.intersection(refs):
            self.restore(outcome, step, sorted(uncertain, key=lambda ref: ref.entry_id))
            self._uncertain -= uncertain
            self.mark_completed(outcome, uncertain)  # one that its fleet has sent again has another entry
        if refs:
            now = time.monotonic()
            self._recent.append((now, outcome, step, list(refs)))
            while self._recent[0][0] < now - REPAIRED_S:
                self._recent.popleft()
        return finished

    def repeat(self, in_flight: Iterable[GroupRef]) -> None:
        """Finishes again, after an outage, the groups that were finished shortly before it. Does not retry.

        Args:
            in_flight: groups taken and not finished; Redis may have forgotten that it ever accepted them.
        """
        self._uncertain = set(in_flight)
        for _, outcome, step, refs in list(self._recent):
            for name in ("finish", "restore"):
                for call in self._calls(name, outcome, step, refs):
                    self._session.execute_once(name, [call])
            self.mark_completed(outcome, refs)

    def restore(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> int:
        """Records finished groups that Redis has lost completely, with their append.

        Args:
            outcome: "trained", "expired", "quarantined" or "lost".
            step: optimizer step.
            refs: the groups; nothing changes for one whose id is known, or so old that it may have been forgotten.

        Returns:
            How many were recorded.
        """
        calls = self._calls("restore", outcome, step, refs)
        return sum(self._session.call("restore", keys, arguments) for keys, arguments in calls)

    def mark_completed(self, outcome: str, refs: Iterable[GroupRef]) -> None:
        """Records that groups have had this outcome, even if Redis forgets it and accepts them again."""
        self._completed |= {(ref.fleet, ref.group_id): outcome for ref in refs}

    def uncertain(self, refs: Iterable[GroupRef]) -> bool:
        """Whether Redis may have forgotten that it ever accepted one of these groups."""
        return not self._uncertain.isdisjoint(refs)

    def put_back(self, refs: Iterable[GroupRef]) -> None:
        """Records that groups are not in flight any more: only if Redis still has them are they handed out again."""
        self._uncertain.difference_update(refs)

    def holds_otherwise(self, ref: GroupRef) -> bool:
        """Whether the group is in flight already, under an entry that Redis has forgotten: its fleet has sent it again.

        It is not to be trained a second time. Once the entry that is in flight is finished, ``completed_as`` knows the group.
        """
        return any(
            (other.fleet, other.group_id) == (ref.fleet, ref.group_id) and other != ref for other in self._uncertain
        )

    def completed_as(self, ref: GroupRef) -> str | None:
        """Returns the outcome recorded by ``mark_completed``; None for any other group."""
        return self._completed.get((ref.fleet, ref.group_id))

    def _calls(self, name: str, outcome: str, step: int, refs: Sequence[GroupRef]) -> Iterator[Call]:
        """Yields the arguments for finish.lua or restore.lua, fleet by fleet, in batches."""
        layout: Callable[..., Call] = {"finish": self._finish_call, "restore": self._restore_call}[name]
        for fleet in sorted({ref.fleet for ref in refs}):
            own = [ref for ref in refs if ref.fleet == fleet]
            for start in range(0, len(own), _BATCH):
                yield layout(fleet, [self._epoch, outcome, step], own[start : start + _BATCH])

    def _finish_call(self, fleet: str, arguments: list[Any], refs: Sequence[GroupRef]) -> Call:
        keys = self._keys
        names = [keys.epoch, keys.stream(fleet), keys.ledger(fleet), keys.vanished(fleet), keys.progress, keys.stepped]
        names.append(keys.memory(fleet))
        pairs = []
        for ref in refs:
            names += [keys.ids(fleet, ref.group_id), keys.payload(fleet, ref.group_id)]
            pairs += [ref.entry_id, ref.group_id]
        return names, [*arguments, fleet, *pairs]

    def _restore_call(self, fleet: str, arguments: list[Any], refs: Sequence[GroupRef]) -> Call:
        keys = self._keys
        names = [keys.epoch, keys.fleets, keys.stream(fleet), keys.ledger(fleet), keys.vanished(fleet)]
        names += [keys.memory(fleet), *(keys.ids(fleet, ref.group_id) for ref in refs)]
        return names, [*arguments, fleet, *(ref.group_id for ref in refs)]
