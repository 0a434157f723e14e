"""Groups that a learner has taken and not finished: how they are taken, what is sorted out, and how they leave the queue."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import structlog
from google.protobuf.message import DecodeError

from learner.queue.completion_writer import CompletionWriter
from learner.queue.entries import GroupRef, QueueEntry, TakenGroup
from learner.queue.errors import QueueError
from learner.queue.expiry_bound import ExpiryBound
from learner.queue.fairness import DeficitRoundRobin
from learner.queue.keys import Keys
from learner.queue.redis_session import RedisSession
from learner.queue.stream_reader import StreamReader
from learner.queue.version_registry import UnknownVersionError, VersionRegistry
from leeway.v1 import rollout_pb2
from runtime.response_spans import spans_of

Audit = Callable[[str, int, Sequence[GroupRef]], None]

# Why tokens of accepted groups were generated in vain; "unusable" groups are counted as expired in the ledger.
Waste = Literal["expired", "unusable", "lost", "quarantined"]
WASTES: tuple[Waste, ...] = ("expired", "unusable", "lost", "quarantined")

_ROUNDS = 128  # reads of the queue in one take; the caller stops, reports and asks again in between


class GroupsInFlight:
    """The groups of one learner, between the queue and their end. Threads: one may take while another finishes groups.

    Args:
        session: connection to Redis.
        keys: the run's keys.
        epoch: this learner's epoch; once a newer learner has started, every call that changes something raises FencedError.
        registry: knows how stale a version is.
        weights: fleet -> relative share of the learner, > 0; 1 for fleets not named.
        audit: called with outcome, step and groups before a take finishes groups that it does not hand out.

    Attributes:
        unusable: groups expired since the start because one of their versions was not usable (see ``require``).
    """

    def __init__(
        self,
        session: RedisSession,
        keys: Keys,
        epoch: int,
        registry: VersionRegistry,
        weights: Mapping[str, float] | None,
        audit: Audit | None,
    ) -> None:
        self.unusable = 0
        self._session = session
        self._epoch = epoch
        self._registry = registry
        self._audit = audit
        self._fairness = DeficitRoundRobin(weights)
        self._reader = StreamReader(session, keys, self._fairness)
        self._completions = CompletionWriter(session, keys, epoch)
        self._expiries = ExpiryBound()
        self._wasted: Counter[Waste] = Counter()
        self._usable: Callable[[int], bool] = lambda version: True
        self._lock = threading.RLock()  # guards which groups are in flight, and what has become of them
        self._log = structlog.get_logger(process="learner")

    def require(self, usable: Callable[[int], bool]) -> None:
        """Makes later takes expire groups with tokens of a version for which ``usable(version)`` is false."""
        self._usable = usable

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Sets other relative shares of the learner: fleet -> weight, > 0; 1 for fleets not named."""
        self._fairness.weigh(weights)

    def recover(self) -> None:
        """Finds the groups that a dead learner had in flight; they are the first that ``take`` returns."""
        self._session.with_retry(self._reader.recover)

    def recovered(self) -> int:
        """Counts a dead learner's groups that have not been handed out again yet."""
        with self._lock:
            return self._reader.recovered()

    def refs(self) -> list[GroupRef]:
        """Returns the groups in flight, in the order in which they were handed out."""
        # Without the lock, which a thread may hold that waits for the one that calls this after a restart of Redis.
        return self._reader.in_flight()

    def waste(self, reason: Waste, tokens: int) -> None:
        """Counts tokens that were generated in vain."""
        with self._lock:
            self._wasted[reason] += tokens

    def wasted(self) -> dict[Waste, int]:
        """Returns the generated tokens wasted since the last call, by reason."""
        with self._lock:
            counted, self._wasted = self._wasted, Counter()
        return {reason: counted[reason] for reason in WASTES}

    def mark_trained(self, refs: Sequence[GroupRef]) -> None:
        """Records that groups are in the weights, even if Redis forgets it and accepts them again."""
        self._completions.mark_completed("trained", refs)

    def repeat(self) -> None:
        """Finishes again, after a restart of Redis, what was finished shortly before it. Does not retry."""
        self._completions.repeat(self._reader.in_flight())
        self._reader.put_back([])

    def take(self, groups: int, step: int, expire_after: int) -> list[TakenGroup]:
        """Takes the next groups, as ``LearnerQueue.take`` does."""
        ages: dict[GroupRef, int | None] = {}

        def in_time(entry: QueueEntry) -> bool:
            ages[entry.ref] = self._staleness_of(entry.versions, step, expire_after)
            return ages[entry.ref] is not None

        taken: list[TakenGroup] = []
        fetched: list[tuple[QueueEntry, bytes | None]] = []
        self._expiries.begin_take()
        try:
            for _ in range(_ROUNDS):
                wanted, passed_over = groups - len(taken), self._expiries.passed_over()
                if wanted <= 0:
                    break
                with self._lock:  # released between reads: a flood of groups that expire must not keep out a commit
                    reply = self._session.with_retry(
                        lambda wanted=wanted, passed=passed_over: self._reader.next(
                            wanted, self._epoch, passed, in_time
                        )
                    )
                    if reply is None:
                        break
                    fetched += reply
                    taken += self._keep_trainable(reply, step, ages)
        except QueueError:
            # The caller gets none of them, so the next take must return them.
            refs = [entry.ref for entry, _ in fetched]
            with self._lock:
                self._reader.put_back(refs)
                self._completions.put_back(refs)
            raise
        return taken

    def finish(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> int:
        """Takes groups out of the queue for good; returns how many of them had not been finished before."""
        with self._lock:
            resent = self._completions.uncertain(refs)
            finished = self._completions.finish(outcome, step, refs)
            self._reader.release(refs)
            if resent:
                self._reader.put_back([])  # entries of the same groups, which were passed over, are found again
            return finished

    def _keep_trainable(
        self, fetched: Sequence[tuple[QueueEntry, bytes | None]], step: int, ages: Mapping[GroupRef, int | None]
    ) -> list[TakenGroup]:
        """Returns the groups fresh enough to train on. Finishes the others as expired, lost, or what they were before.

        Args:
            fetched: entries with their payloads.
            step: optimizer steps done so far.
            ages: staleness of each group; None if it is to expire, and its payload was not read.
        """
        taken: list[TakenGroup] = []
        dropped: dict[str, list[GroupRef]] = {"expired": [], "lost": []}
        for entry, payload in fetched:
            if (outcome := self._completions.completed_as(entry.ref)) is not None:
                self.finish(outcome, step, [entry.ref])
                continue
            if self._completions.holds_otherwise(entry.ref):
                self._reader.release([entry.ref])
                continue
            staleness = ages[entry.ref]
            group = self._parse(entry, payload) if staleness is not None else None
            if staleness is not None and group is None:
                dropped["lost"].append(entry.ref)
                self._wasted["lost"] += entry.generated
            elif staleness is None or group is None or not self._all_usable(group):
                dropped["expired"].append(entry.ref)
                self._wasted["expired" if staleness is None else "unusable"] += entry.generated
                if self._expiries.expired(entry.ref.fleet):
                    self._fairness.refund(entry.ref.fleet, entry.tokens)
            else:
                self._expiries.trainable(entry.ref.fleet)
                taken.append(TakenGroup(entry.ref, group, staleness))
        for outcome, refs in dropped.items():
            if refs and self._audit is not None:
                self._audit(outcome, step, refs)
            self.finish(outcome, step, refs)
        return taken

    def _parse(self, entry: QueueEntry, payload: bytes | None) -> rollout_pb2.Group | None:
        """Parses the group. Returns None, and logs an error, if the payload is missing or corrupt: such a group is lost."""
        reason = "its payload is missing"
        if payload is not None:
            try:
                return rollout_pb2.Group.FromString(payload)
            except DecodeError as error:
                reason = f"its payload cannot be parsed: {error}"
        ref = entry.ref
        self._log.error("an accepted group is lost", reason=reason, fleet=ref.fleet, group=ref.group_id)
        return None

    def _staleness_of(self, versions: Iterable[int], step: int, bound: int) -> int | None:
        """Staleness of the most stale version. None if it exceeds the bound, or a version is forgotten."""
        try:
            staleness = max((self._registry.staleness(version, step) for version in versions), default=0)
        except UnknownVersionError:
            return None
        return staleness if staleness <= bound else None

    def _all_usable(self, group: rollout_pb2.Group) -> bool:
        """Whether all versions that scored responses have are usable (see ``require``); counts the group if they are not.

        Tokens of unscored responses carry no loss, so nothing of theirs is recomputed.
        """
        scored = (response for response in group.responses[:] if not response.unscored)
        versions = {span.version for response in scored for span in spans_of(response)}
        usable = all(map(self._usable, versions))
        self.unusable += not usable
        return usable
