"""The learner's side of the queue: begin, take, commit, report, publish. Synchronous; used by rank 0 only."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from learner.config import QueueConfig
from learner.queue.completion_writer import CompletionWriter
from learner.queue.connect import connect
from learner.queue.entries import GroupRef, QueueEntry, TakenGroup
from learner.queue.errors import QueueError
from learner.queue.expiry_bound import ExpiryBound
from learner.queue.fairness import DeficitRoundRobin
from learner.queue.keys import Keys
from learner.queue.redis_session import Call, RedisSession
from learner.queue.schema import SCHEMA, require_schema
from learner.queue.stream_reader import StreamReader
from learner.queue.version_registry import VERSIONS_KEPT, Timeline, UnknownVersionError, read_registry
from leeway.v1 import rollout_pb2

Audit = Callable[[str, int, Sequence[GroupRef]], None]

_REPUBLISHED = 64  # versions; more than are published in the seconds of writes that Redis may lose
_ROUNDS = 128  # reads of the queue in one take; the caller stops, reports and asks again in between


class LearnerQueue:
    """One learner's access to a run's queue. Made with ``open``; ``begin`` comes before any other call.

    Every call that changes something carries the learner's epoch; once a newer learner has opened the queue, those calls
    raise FencedError and change nothing. Calls wait for a Redis that does not answer, up to queue.outage_s, then raise
    UnavailableError. What Redis may have lost in a restart (AOF everysec) is written again: this learner's start, the
    newest versions, and the groups finished in the last seconds.

    Threads: one may take while another commits and reports, and a third publishes.

    Attributes:
        epoch: number of this learner's start, from 1.
        unusable: groups expired since the start because one of their versions was not usable (see ``require``).
    """

    def __init__(
        self,
        session: RedisSession,
        config: QueueConfig,
        epoch: int,
        weights: Mapping[str, float] | None,
        audit: Audit | None,
    ) -> None:
        self.epoch = epoch
        self.unusable = 0
        self._session = session
        self._keys = Keys(config.run)
        self._completions = CompletionWriter(session, self._keys, epoch, config.id_memory_s)
        self._fairness = DeficitRoundRobin(weights)
        self._expiries = ExpiryBound()
        self._reader = StreamReader(session, self._keys, self._fairness)
        self._registry = session.with_retry(lambda: read_registry(session.client, self._keys))
        self._log = structlog.get_logger(process="learner")
        self._audit = audit
        self._timeline: Timeline | None = None
        self._usable: Callable[[int], bool] = lambda version: True
        self._groups = threading.RLock()  # guards which groups are in flight, and what has become of them
        self._published: deque[list[Any]] = deque(maxlen=_REPUBLISHED)  # arguments of the last calls of publish.lua
        session.on_restart(self._repeat_after_restart)

    @classmethod
    def open(
        cls,
        config: QueueConfig,
        weights: Mapping[str, float] | None = None,
        above: int = 0,
        audit: Audit | None = None,
    ) -> LearnerQueue:
        """Connects, waiting for a Redis that is not there yet, and starts a new epoch, which fences every older learner.

        Args:
            config: where the queue is.
            weights: fleet -> relative share of the learner, > 0; 1 for fleets not named.
            above: the new epoch is higher than this, even if Redis has lost its own record of the last epoch.
            audit: called with outcome, step and groups before a take finishes groups that it does not hand out.

        Raises:
            UnavailableError: Redis has not answered for queue.outage_s.
            QueueError: Redis refuses us, or the run's data is of another schema.
        """
        session, keys = RedisSession(connect(config), config.outage_s), Keys(config.run)

        def stored_schema() -> Any:
            stored = session.client.get(keys.schema)
            if stored is None:
                session.client.set(keys.schema, SCHEMA, nx=True)
            return stored

        require_schema(session.with_retry(stored_schema), keys)
        epoch = session.call("start", [keys.epoch], [above])
        return cls(session, config, epoch, weights, audit)

    def begin(self, resumed_step: int, trained: Sequence[GroupRef]) -> int:
        """Continues from a checkpoint: commits the groups it contains, takes over the groups a dead learner had in flight.

        Args:
            resumed_step: optimizer steps in the checkpoint; 0 without one.
            trained: groups that the checkpoint contains and that were not committed when it was made.

        Returns:
            How many of ``trained`` had not been committed yet. All other groups that the dead learner had in flight are
            the first that ``take`` returns.
        """
        timeline = Timeline(self.epoch, resumed_step)
        self._session.call("begin", *self._begin_call(timeline))
        self._registry.begin(timeline)
        committed = self._finish("trained", resumed_step, trained)
        self._completions.mark_completed("trained", trained)
        prefixes = [self._keys.stream_prefix, self._keys.ledger_prefix]
        self._change("recover", [self._keys.progress, self._keys.fleets], prefixes)
        self._session.with_retry(self._reader.recover)
        self._timeline = timeline
        return committed

    def while_waiting(self, action: Callable[[], None]) -> None:
        """Sets what is called while a call waits for Redis, but for calls in ``waiting_at_most``: waiting is no hang."""
        self._session.while_waiting(action)

    def waiting_at_most(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Context in which this thread's calls raise StillAwayError when Redis has not answered for so long."""
        return self._session.waiting_at_most(seconds)

    def next_version(self) -> int:
        """Returns one above the highest version ever published, on any timeline; 0 for a new run."""
        newest: Any = self._session.with_retry(lambda: self._session.client.xrevrange(self._keys.versions, count=1))
        known = self._registry.newest()
        return 1 + max([-1 if known is None else known] + [int(fields[b"version"]) for _, fields in newest])

    def take(self, groups: int, step: int, max_staleness: int) -> list[TakenGroup]:
        """Takes the next groups, fairly over the fleets and oldest first within each. Does not wait for more to come.

        Groups more stale than the bound are counted as expired and deleted; they do not use up their fleet's share, up to
        a limit that learner.queue.expiry_bound explains. A take reads the queue a bounded number of times, so it may return
        fewer groups than wait: call it again. Other calls come in between two reads.

        Args:
            groups: the most to return.
            step: optimizer steps done so far.
            max_staleness: in optimizer steps; a group is as stale as its most stale span.

        Returns:
            0 to ``groups`` groups, in flight with this learner until it commits them.

        Raises:
            QueueError: ``begin`` was not called.
        """
        if self._timeline is None:
            raise QueueError(
                "take() was called before begin(): groups of a dead learner would stay behind; call begin()"
            )
        return self._take(groups, step, max_staleness)

    def waiting(self) -> int:
        """Counts the groups that a take could return or expire: queued, or a dead learner's and not handed out yet."""
        prefixes = [self._keys.stream_prefix, self._keys.ledger_prefix]
        reply = self._session.call("backlog", [self._keys.fleets], prefixes)
        with self._groups:
            return sum(reply[1::4]) + self._reader.recovered()

    def staleness(self, version: int, step: int) -> int:
        """Optimizer steps between a version's weights and this learner's at ``step``.

        Raises:
            UnknownVersionError: the run has not published the version, or too long ago to be remembered.
        """
        return self._registry.staleness(version, step)

    def fresh(self, versions: Iterable[int], staleness: int) -> set[int]:
        """Returns those of ``versions`` that are known and at most ``staleness`` steps stale at the newest version's step."""
        return self._registry.fresh(versions, staleness)

    def require(self, usable: Callable[[int], bool]) -> None:
        """Makes later takes expire groups with tokens of a version for which ``usable(version)`` is false."""
        self._usable = usable

    def commit(self, step: int, refs: Sequence[GroupRef]) -> int:
        """Removes trained groups from the queue for good. Call it only once a checkpoint that contains ``step`` is durable.

        Returns:
            How many of ``refs`` this call finished; calling it again is harmless and returns 0.
        """
        return self._finish("trained", step, refs)

    def finished(self, refs: Sequence[GroupRef]) -> int:
        """Counts those of ``refs`` that are no longer in the queue."""
        return self._completions.absent(refs)

    def report(self, step: int, version: int, uncommitted: int) -> None:
        """Records the learner's progress, which gateways grant leases by.

        Args:
            step: optimizer steps done.
            version: the newest published version.
            uncommitted: groups that an optimizer step was made with and that are not committed yet.
        """
        with self._groups:
            in_flight = self._reader.in_flight()
        # Groups are trained on in the order they were handed out.
        fleets = Counter(ref.fleet for ref in in_flight[:uncommitted])
        flat = [text for pair in fleets.items() for text in pair]
        self._change("report", [self._keys.progress, self._keys.stepped], [step, version, uncommitted, *flat])

    def publish(self, policy: rollout_pb2.Policy) -> None:
        """Announces a version to every fleet.

        Raises:
            QueueError: a version at least as high was published before.
        """
        text = json_format.MessageToJson(policy, preserving_proto_field_name=True, indent=None)
        # Registered before any fleet can answer with it: publication and take run in different threads.
        self._registry.add(policy.version, policy.step, policy.epoch)
        self._published.append([policy.version, text, VERSIONS_KEPT])
        self._change("publish", [self._keys.versions], self._published[-1])

    def running_versions(self, max_age_s: float = 600.0) -> set[int]:
        """Returns the versions that workers of any fleet reported to run within the last ``max_age_s`` seconds."""
        return self._session.with_retry(lambda: self._read_running(max_age_s))

    def expired(self) -> int:
        """Counts the groups of all fleets that have expired since the run began."""

        def read() -> int:
            ledgers = [self._keys.ledger(fleet) for fleet in self._fleets()]
            counts: list[Any] = [self._session.client.hget(key, "expired") for key in ledgers]
            return sum(int(count or 0) for count in counts)

        return self._session.with_retry(read)

    def close(self) -> None:
        """Closes the connection. Groups in flight stay pending for the next learner."""
        self._session.client.close()

    def _take(self, groups: int, step: int, max_staleness: int) -> list[TakenGroup]:
        taken: list[TakenGroup] = []
        fetched: list[tuple[QueueEntry, bytes | None]] = []
        self._expiries.begin_take()
        try:
            for _ in range(_ROUNDS):
                wanted, passed_over = groups - len(taken), self._expiries.passed_over()
                if wanted <= 0:
                    break
                with self._groups:  # released between reads: a flood of groups that expire must not keep out a commit
                    reply = self._session.with_retry(
                        lambda wanted=wanted, passed=passed_over: self._reader.next(wanted, self.epoch, passed)
                    )
                    if reply is None:
                        break
                    fetched += reply
                    taken += self._keep_trainable(reply, step, max_staleness)
        except QueueError:
            # The caller gets none of them, so the next take must return them.
            with self._groups:
                self._reader.put_back(entry.ref for entry, _ in fetched)
            raise
        return taken

    def _keep_trainable(
        self, fetched: Sequence[tuple[QueueEntry, bytes | None]], step: int, max_staleness: int
    ) -> list[TakenGroup]:
        """Returns the groups fresh enough to train on. Finishes the others as expired, lost, or what they were before."""
        taken: list[TakenGroup] = []
        dropped: dict[str, list[GroupRef]] = {"expired": [], "lost": []}
        for entry, payload in fetched:
            if (outcome := self._completions.completed_as(entry.ref)) is not None:
                self._finish(outcome, step, [entry.ref])
            elif (group := self._parse(entry, payload)) is None:
                dropped["lost"].append(entry.ref)
            elif (staleness := self._group_staleness(group, step, max_staleness)) is None:
                dropped["expired"].append(entry.ref)
                if self._expiries.expired(entry.ref.fleet):
                    self._fairness.refund(entry.ref.fleet, entry.tokens)
            else:
                self._expiries.trainable(entry.ref.fleet)
                taken.append(TakenGroup(entry.ref, group, staleness))
        for outcome, refs in dropped.items():
            if refs and self._audit is not None:
                self._audit(outcome, step, refs)
            self._finish(outcome, step, refs)
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

    def _group_staleness(self, group: rollout_pb2.Group, step: int, bound: int) -> int | None:
        """Staleness of the most stale span. None if it exceeds the bound, or a version is forgotten or not usable."""
        versions = {span.version for response in group.responses[:] for span in response.spans[:]}
        try:
            staleness = max((self._registry.staleness(version, step) for version in versions), default=0)
        except UnknownVersionError:
            return None
        if staleness > bound:
            return None
        if not all(map(self._usable, versions)):
            self.unusable += 1
            return None
        return staleness

    def _finish(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> int:
        with self._groups:
            finished = self._completions.finish(outcome, step, refs)
            self._reader.release(refs)
            return finished

    def _repeat_after_restart(self) -> None:
        """Writes again what Redis may have lost in a restart. Changes nothing if it has lost nothing."""
        if self._timeline is not None:
            self._session.execute_once("begin", [self._begin_call(self._timeline)])
        self._republish()
        self._completions.repeat(self._reader.in_flight())
        self._reader.put_back([])

    def _republish(self) -> None:
        newest: Any = self._session.client.xrevrange(self._keys.versions, count=1)
        known = int(newest[0][1][b"version"]) if newest else -1
        for arguments in list(self._published):
            if arguments[0] > known:
                self._session.execute_once(
                    "publish", [([self._keys.epoch, self._keys.versions], [self.epoch, *arguments])]
                )

    def _begin_call(self, timeline: Timeline) -> Call:
        keys = [self._keys.epoch, self._keys.timelines, self._keys.progress, self._keys.stepped]
        return keys, [self.epoch, timeline.resumed_step, timeline.to_json()]

    def _change(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Runs a fenced script, whose first key and first argument are the epoch's."""
        return self._session.call(name, [self._keys.epoch, *keys], [self.epoch, *arguments])

    def _fleets(self) -> list[str]:
        members: Any = self._session.client.smembers(self._keys.fleets)
        return sorted(name.decode() for name in members)

    def _read_running(self, max_age_s: float) -> set[int]:
        # Redis wrote the times, so its clock is the one to compare them with.
        seconds, _ = self._session.client.time()  # pyright: ignore[reportGeneralTypeIssues]
        versions = set()
        for fleet in self._fleets():
            values: Any = self._session.client.hvals(self._keys.running(fleet))
            for value in values:
                version, _, unix_ms = value.decode().partition(":")
                if seconds - int(unix_ms) / 1000 <= max_age_s:
                    versions.add(int(version))
        return versions
