"""An operator's decision that a halted queue goes on with the data that is in Redis, and what that costs.

What the learner has recorded is written into Redis first: groups that are in its weights and that came back are finished, and
those of which Redis knows nothing are counted again, so that none is trained twice. Those that are missing even then are
counted as vanished.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from learner.config import QueueConfig
from learner.queue.completion_writer import CompletionWriter
from learner.queue.connect import connect
from learner.queue.entries import GroupRef
from learner.queue.errors import QueueError
from learner.queue.keys import ID_BUCKET_MS, Keys, made_ms
from learner.queue.redis_session import RedisSession
from learner.queue.schema import SCHEMA
from learner.queue.witness import MOVED, Halt

_KNOWN_DATA = ("older", MOVED)  # reasons of a halt in which Redis has this run's own data, not some that was begun anew


@dataclass(frozen=True)
class TrainedStep:
    """Groups that a step has trained, and that are in the newest durable checkpoint.

    Attributes:
        epoch: epoch of the learner that trained them.
        step: the step.
        groups: (fleet, group id) of each.
    """

    epoch: int
    step: int
    groups: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Accepted:
    """What a decision did.

    Attributes:
        returned: groups that had come back, and were finished as trained again.
        restored: trained groups that Redis had forgotten, and were counted again.
        vanished: fleet -> groups that were accepted and are missing, at most: they were neither trained nor are they queued.
    """

    returned: int
    restored: int
    vanished: dict[str, int]


class HaltedQueue:
    """A run's queue, for an operator. Every method raises QueueError when Redis cannot be used.

    Args:
        config: where the queue is.
    """

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._keys = Keys(config.run)
        self._session = RedisSession(connect(config), config.timeout_s)

    def __enter__(self) -> HaltedQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.client.close()

    def halt(self) -> Halt | None:
        """Reads why the queue is halted; None if it is not."""
        text: Any = self._session.with_retry(lambda: self._session.client.get(self._keys.halted))
        return None if text is None else Halt.parse(text.decode())

    def accept(self, halt: Halt, trained: Iterable[TrainedStep]) -> Accepted:
        """Lets the queue go on with the data that is there. Interrupted, it is to be called again.

        Args:
            halt: what the operator has seen.
            trained: what is in the newest durable checkpoint, oldest first.

        Raises:
            QueueError: the halt is another one meanwhile.
        """
        completions = CompletionWriter(self._session, self._keys, self._epoch(halt))
        queued, oldest = self._queued(), self._oldest(halt)
        returned = restored = 0
        aged: Counter[str] = Counter()
        for one in trained:
            if refs := [queued[group] for group in one.groups if group in queued]:
                returned += completions.finish("trained", one.step, refs)
            # What Redis had heard of, it still knows, or has forgotten when it was time to. Who reported it counts, not who
            # has started since: that may be the learner that found the data older.
            if halt.reason not in _KNOWN_DATA or (one.epoch, one.step) > (halt.found.reported, halt.found.step):
                gone = [GroupRef(*group, "") for group in one.groups if group not in queued]
                # An id that is older than the memory of ids is not to fill it: such a group is refused by its age.
                restored += completions.restore("trained", one.step, [r for r in gone if made_ms(r.group_id) >= oldest])
                aged.update(ref.fleet for ref in gone if made_ms(ref.group_id) < oldest)
        vanished = self._missing(halt, aged)
        accepted = Accepted(returned, restored + aged.total(), vanished)
        self._decide(halt, accepted, aged, oldest)
        return accepted

    def _oldest(self, halt: Halt) -> int:
        """Unix milliseconds, by the queue's clock, before which ids need not be remembered."""
        return max(0, halt.known.clock - 1000 * self._config.id_memory_s) // ID_BUCKET_MS * ID_BUCKET_MS

    def _epoch(self, halt: Halt) -> int:
        """The epoch to write with: Redis may have lost the newest learner's start."""
        stored: Any = self._session.with_retry(lambda: self._session.client.get(self._keys.epoch))
        epoch = max(int(stored or 0), halt.known.epoch)
        if epoch != int(stored or 0):
            self._session.with_retry(lambda: self._session.client.set(self._keys.epoch, epoch))
        return epoch

    def _queued(self) -> dict[tuple[str, str], GroupRef]:
        """Every group in the streams, by fleet and group id."""
        client, found = self._session.client, {}
        for fleet in self._fleets():
            entries: Any = self._session.with_retry(lambda fleet=fleet: client.xrange(self._keys.stream(fleet)))
            for entry_id, fields in entries:
                group_id = fields[b"id"].decode()
                found[fleet, group_id] = GroupRef(fleet, group_id, entry_id.decode())
        return found

    def _fleets(self) -> list[str]:
        members: Any = self._session.with_retry(lambda: self._session.client.smembers(self._keys.fleets))
        return sorted(name.decode() for name in members)

    def _missing(self, halt: Halt, aged: Mapping[str, int]) -> dict[str, int]:
        """Counts by fleet the groups that were accepted and that Redis still does not know of."""
        missing = {}
        for fleet, before in sorted(halt.known.accepted.items()):
            count: Any = self._session.with_retry(
                lambda fleet=fleet: self._session.client.hget(self._keys.ledger(fleet), "accepted")
            )
            # In data that was begun anew, what was accepted before the halt was noticed is not among what is missing.
            new = 0 if halt.reason in _KNOWN_DATA else halt.found.accepted.get(fleet, 0)
            known = int(count or 0) + aged.get(fleet, 0) - new
            if before > known:
                missing[fleet] = before - known
        return missing

    def _decide(self, halt: Halt, accepted: Accepted, aged: Mapping[str, int], oldest: int) -> None:
        keys, nonce = self._keys, uuid.uuid4().hex
        replaced = sorted({halt.known.nonce, halt.found.nonce} - {""})
        decision = json.dumps({"nonce": nonce, "time": time.time(), "reason": halt.reason, **asdict(accepted)})
        names = [keys.halted, keys.nonce, keys.replaced, keys.schema, keys.fleets]
        arguments = [
            halt.text,
            nonce,
            decision,
            SCHEMA,
            keys.stream_prefix,
            keys.ledger_prefix,
            keys.memory_prefix,
            oldest,
        ]
        fleets = sorted({*halt.known.accepted, *self._fleets(), *aged})
        flat = [text for fleet in fleets for text in (fleet, accepted.vanished.get(fleet, 0), aged.get(fleet, 0))]
        if not self._session.call("accept", names, [*arguments, len(replaced), *replaced, *flat]):
            with contextlib.suppress(QueueError):
                if self.halt() is None:
                    return  # an earlier attempt took effect, though its reply was lost
            raise QueueError("the queue has halted again since, or more was found to be missing: look at it again")
