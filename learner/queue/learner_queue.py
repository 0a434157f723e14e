"""The learner's side of the queue: begin, take, commit, report, publish. Synchronous; rank 0 only."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from learner.config import QueueConfig
from learner.queue.completion import CompletionWriter
from learner.queue.connect import connect
from learner.queue.entries import GroupRef, QueueEntry, TakenGroup
from learner.queue.errors import QueueError
from learner.queue.fairness import DeficitRoundRobin
from learner.queue.keys import Keys
from learner.queue.redis_session import Call, RedisSession
from learner.queue.registry import VERSIONS_KEPT, Timeline, UnknownVersionError, read_registry
from learner.queue.schema import check_learner_schema, migrate
from learner.queue.stream_reader import StreamReader
from leeway.v1 import rollout_pb2

Audit = Callable[[str, int, Sequence[GroupRef]], None]

_ANNOUNCED_AGAIN = 64  # versions; more than are published in the seconds that a Redis may forget
_OUTAGE_S = 60.0  # how long a Redis that does not answer is waited for


class LearnerQueue:
    """One learner's hold on a run's queue. Make it with ``open``, then ``begin``.

    Every call that changes something carries the learner's epoch; once a newer learner has opened the queue, those calls
    raise FencedError and change nothing. A Redis that restarts is waited for, up to a minute; then UnavailableError. What
    it may have forgotten (AOF everysec) is done again: our start, the newest versions, groups finished in the last seconds.

    Threads: one may take while another commits and reports, and a third publishes.

    Attributes:
        epoch: the number of this learner start, from 1.
        unusable: groups expired because of a version of theirs (see ``require``), since the start.
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
        self._finisher = CompletionWriter(session, self._keys, epoch, config.id_memory_s)
        self._fairness = DeficitRoundRobin(weights)
        self._reader = StreamReader(session, self._keys, self._fairness)
        self._registry = session.with_retry(lambda: read_registry(session.client, self._keys))
        self._log = structlog.get_logger(process="learner")
        self._audit = audit
        self._timeline: Timeline | None = None
        self._usable: Callable[[int], bool] = lambda version: True
        self._groups = threading.RLock()  # what is held, and what has become of it
        self._published: deque[list[Any]] = deque(maxlen=_ANNOUNCED_AGAIN)  # the arguments of the last publications
        session.on_return(self._repeat)

    @classmethod
    def open(
        cls,
        config: QueueConfig,
        weights: Mapping[str, float] | None = None,
        above: int = 0,
        audit: Audit | None = None,
    ) -> LearnerQueue:
        """Connects, starts a new epoch, which fences every older learner, and migrates a run of an older schema.

        Args:
            config: where the queue is.
            weights: fleet -> share of the learner, relative; 1 for those not named.
            above: the new epoch is higher, whatever Redis has forgotten.
            audit: told outcome, step and groups before a take finishes those it does not hand out.

        Raises:
            QueueError: Redis cannot be reached or refuses us, or the run's data is of a newer schema.
        """
        session, keys = RedisSession(connect(config), _OUTAGE_S), Keys(config.run)
        check_learner_schema(session.client, keys)
        epoch = session.call("start", [keys.epoch], [above])
        migrate(session, keys, epoch)
        return cls(session, config, epoch, weights, audit)

    def begin(self, resumed_step: int, trained: Sequence[GroupRef]) -> int:
        """Goes on from a checkpoint: commits the groups it contains and takes over what a dead learner held.

        Args:
            resumed_step: optimizer steps in the checkpoint; 0 without one.
            trained: the groups it contains that were not committed when it was made.

        Returns:
            How many of those had not been committed yet. All other groups that the dead learner held are taken first.
        """
        timeline = Timeline(self.epoch, resumed_step)
        self._session.call("begin", *self._begin_call(timeline))
        self._registry.begin(timeline)
        committed = self._finish("trained", resumed_step, trained)
        self._finisher.settle("trained", trained)
        prefixes = [self._keys.stream_prefix, self._keys.ledger_prefix]
        self._change("recover", [self._keys.progress, self._keys.fleets], prefixes)
        self._session.with_retry(self._reader.recover)
        self._timeline = timeline
        return committed

    def next_version(self) -> int:
        """One above every version ever published, orphans too; 0 for a new run."""
        newest: Any = self._session.with_retry(lambda: self._session.client.xrevrange(self._keys.versions, count=1))
        known = self._registry.newest()
        return 1 + max([-1 if known is None else known] + [int(fields[b"version"]) for _, fields in newest])

    def take(self, groups: int, step: int, max_staleness: int) -> list[TakenGroup]:
        """The next groups, fairly over the fleets and oldest first within each. Does not wait for more to come.

        Groups older than the bound are counted as expired and forgotten; they do not count against their fleet's share.

        Args:
            groups: the most to return.
            step: optimizer steps done so far.
            max_staleness: in optimizer steps; a group is as stale as its most stale span.

        Returns:
            0 to ``groups`` groups, held by this learner until committed.
        """
        if self._timeline is None:
            raise QueueError("take() before begin(): a dead learner's groups would be left behind")
        with self._groups:
            return self._take(groups, step, max_staleness)

    def waiting(self) -> int:
        """Groups that a take could return or expire: queued of all fleets, and a dead learner's not handed out yet."""
        prefixes = [self._keys.stream_prefix, self._keys.ledger_prefix]
        reply = self._session.call("backlog", [self._keys.fleets], prefixes)
        with self._groups:
            return sum(reply[1::4]) + self._reader.recovered()

    def staleness(self, version: int, step: int) -> int:
        """Optimizer steps between a version's weights and ours at ``step``. Raises UnknownVersionError."""
        return self._registry.staleness(version, step)

    def fresh(self, versions: Iterable[int], staleness: int) -> set[int]:
        """Those of ``versions`` that are known and at most so stale at the newest version's step."""
        return self._registry.fresh(versions, staleness)

    def require(self, usable: Callable[[int], bool]) -> None:
        """From now on groups with tokens of a version that is not usable expire, as those that are too stale do."""
        self._usable = usable

    def commit(self, step: int, refs: Sequence[GroupRef]) -> int:
        """Ends the life of trained groups. Only once a checkpoint that contains ``step`` is durable.

        Returns:
            How many were not finished before; calling it again is harmless.
        """
        return self._finish("trained", step, refs)

    def finished(self, refs: Sequence[GroupRef]) -> int:
        """How many of ``refs`` are not in the queue any more."""
        return self._finisher.gone(refs)

    def report(self, step: int, version: int, uncommitted: int) -> None:
        """Says how far we are; admission counts on ``uncommitted``, the groups stepped on and not yet committed."""
        with self._groups:
            held = self._reader.held()
        # Groups are stepped on in the order they were handed out.
        fleets = Counter(ref.fleet for ref in held[:uncommitted])
        flat = [text for pair in fleets.items() for text in pair]
        self._change("report", [self._keys.progress, self._keys.stepped], [step, version, uncommitted, *flat])

    def publish(self, policy: rollout_pb2.Policy) -> None:
        """Announces a version to every fleet. Raises QueueError when it is not above all published ones."""
        text = json_format.MessageToJson(policy, preserving_proto_field_name=True, indent=None)
        # Known here before any fleet can answer with it: publication and take run in different threads.
        self._registry.add(policy.version, policy.step, policy.epoch)
        self._published.append([policy.version, text, VERSIONS_KEPT])
        self._change("publish", [self._keys.versions], self._published[-1])

    def running_versions(self, max_age_s: float = 600.0) -> set[int]:
        """Versions that any fleet's workers said they run, within the last ``max_age_s`` seconds."""
        return self._session.with_retry(lambda: self._read_running(max_age_s))

    def expired(self) -> int:
        """Groups expired so far, all fleets, over the life of the run."""

        def read() -> int:
            ledgers = [self._keys.ledger(fleet) for fleet in self._fleets()]
            counts: list[Any] = [self._session.client.hget(key, "expired") for key in ledgers]
            return sum(int(count or 0) for count in counts)

        return self._session.with_retry(read)

    def close(self) -> None:
        """Lets go of the connection. What we hold stays pending for the next learner."""
        self._session.client.close()

    def _take(self, groups: int, step: int, max_staleness: int) -> list[TakenGroup]:
        taken: list[TakenGroup] = []
        fetched: list[tuple[QueueEntry, bytes | None]] = []
        try:
            while len(taken) < groups:
                wanted = groups - len(taken)
                reply = self._session.with_retry(lambda wanted=wanted: self._reader.next(wanted, self.epoch))
                if reply is None:
                    break
                fetched += reply
                taken += self._sort_out(reply, step, max_staleness)
        except QueueError:
            # The caller gets none of them; whoever takes next must.
            self._reader.put_back(entry.ref for entry, _ in fetched)
            raise
        return taken

    def _sort_out(
        self, fetched: Sequence[tuple[QueueEntry, bytes | None]], step: int, max_staleness: int
    ) -> list[TakenGroup]:
        """Those fresh enough to train; the others are finished here."""
        taken: list[TakenGroup] = []
        over: dict[str, list[GroupRef]] = {"expired": [], "lost": []}
        for entry, payload in fetched:
            if (outcome := self._finisher.settled(entry.ref)) is not None:
                self._finish(outcome, step, [entry.ref])
            elif (group := self._parse(entry, payload)) is None:
                over["lost"].append(entry.ref)
            elif (staleness := self._group_staleness(group, step, max_staleness)) is None:
                over["expired"].append(entry.ref)
                self._fairness.refund(entry.ref.fleet, entry.tokens)
            else:
                taken.append(TakenGroup(entry.ref, group, staleness))
        for outcome, refs in over.items():
            if refs and self._audit is not None:
                self._audit(outcome, step, refs)
            self._finish(outcome, step, refs)
        return taken

    def _parse(self, entry: QueueEntry, payload: bytes | None) -> rollout_pb2.Group | None:
        """The group; None, said aloud, when it is gone or damaged. Then it counts as lost and breaks the law for good."""
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
        """The most stale span's; None when it is above the bound, or a version is too old to be remembered or not usable."""
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
            finished = self._finisher.finish(outcome, step, refs)
            self._reader.release(refs)
            return finished

    def _repeat(self) -> None:
        """After an outage; every part of it does nothing when Redis has forgotten nothing."""
        if self._timeline is not None:
            self._session.execute_once("begin", [self._begin_call(self._timeline)])
        self._announce_again()
        self._finisher.repeat(self._reader.held())
        self._reader.put_back([])

    def _announce_again(self) -> None:
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
        """A fenced script: first key and first argument are the epoch's."""
        return self._session.call(name, [self._keys.epoch, *keys], [self.epoch, *arguments])

    def _fleets(self) -> list[str]:
        members: Any = self._session.client.smembers(self._keys.fleets)
        return sorted(name.decode() for name in members)

    def _read_running(self, max_age_s: float) -> set[int]:
        # Redis wrote the times; its clock is the one to compare them with.
        seconds, _ = self._session.client.time()  # pyright: ignore[reportGeneralTypeIssues]
        versions = set()
        for fleet in self._fleets():
            values: Any = self._session.client.hvals(self._keys.running(fleet))
            for value in values:
                version, _, unix_ms = value.decode().partition(":")
                if seconds - int(unix_ms) / 1000 <= max_age_s:
                    versions.add(int(version))
        return versions
