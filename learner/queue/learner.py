"""The learner's side of the queue: begin, take, commit, report, publish. Synchronous; rank 0 only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from learner.config import QueueConfig
from learner.queue.connect import connect
from learner.queue.errors import QueueError
from learner.queue.fairness import DeficitRoundRobin
from learner.queue.groups import Entry, GroupRef, TakenGroup
from learner.queue.keys import Keys
from learner.queue.reader import Reader
from learner.queue.registry import Timeline, UnknownVersionError, read_registry
from learner.queue.schema import check_learner_schema, migrate
from learner.queue.session import Session
from leeway.v1 import rollout_pb2

VERSIONS_KEPT = 10_000
_OUTAGE_S = 60.0  # how long a Redis that does not answer is waited for
_BATCH = 500  # groups per finish script: bounds how long Redis is busy at a stretch


class LearnerQueue:
    """One learner's hold on a run's queue. Make it with ``open``, then ``begin``.

    Every call that changes something carries the learner's epoch; once a newer learner has opened the queue, those calls
    raise FencedError and change nothing. A Redis that restarts is waited for, up to a minute; then UnavailableError.

    Attributes:
        epoch: the number of this learner start, from 1.
    """

    def __init__(self, session: Session, config: QueueConfig, epoch: int, weights: Mapping[str, float] | None) -> None:
        self.epoch = epoch
        self._session = session
        self._id_memory_s = config.id_memory_s
        self._keys = Keys(config.run)
        self._fairness = DeficitRoundRobin(weights)
        self._reader = Reader(session, self._keys, self._fairness)
        self._registry = session.patiently(lambda: read_registry(session.client, self._keys))
        self._log = structlog.get_logger(process="learner")
        self._begun = False

    @classmethod
    def open(cls, config: QueueConfig, weights: Mapping[str, float] | None = None) -> LearnerQueue:
        """Connects, starts a new epoch, which fences every older learner, and migrates a run of an older schema.

        Args:
            config: where the queue is.
            weights: fleet -> share of the learner, relative; 1 for those not named.

        Raises:
            QueueError: Redis cannot be reached or refuses us, or the run's data is of a newer schema.
        """
        client, keys = connect(config), Keys(config.run)
        check_learner_schema(client, keys)
        session = Session(client, _OUTAGE_S)
        epoch = session.call("start", [keys.epoch], [])
        migrate(session, keys, epoch)
        return cls(session, config, epoch, weights)

    def begin(self, resumed_step: int, trained: Sequence[GroupRef]) -> int:
        """Goes on from a checkpoint: commits the groups it contains and takes over what a dead learner held.

        Args:
            resumed_step: optimizer steps in the checkpoint; 0 without one.
            trained: the groups it contains that were not committed when it was made.

        Returns:
            How many of those had not been committed yet. All other groups that the dead learner held are taken first.
        """
        timeline = Timeline(self.epoch, resumed_step)
        self._change("begin", [self._keys.timelines, self._keys.progress], [resumed_step, timeline.to_json()])
        self._registry.begin(timeline)
        committed = self._finish("trained", resumed_step, trained)
        prefixes = [self._keys.stream_prefix, self._keys.ledger_prefix]
        self._change("recover", [self._keys.progress, self._keys.fleets], prefixes)
        self._session.patiently(self._reader.recover)
        self._begun = True
        return committed

    def next_version(self) -> int:
        """One above every version ever published, orphans too; 0 for a new run."""
        newest: Any = self._session.patiently(lambda: self._session.client.xrevrange(self._keys.versions, count=1))
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
        if not self._begun:
            raise QueueError("take() before begin(): a dead learner's groups would be left behind")
        taken: list[TakenGroup] = []
        fetched: list[tuple[Entry, bytes | None]] = []
        try:
            while len(taken) < groups:
                wanted = groups - len(taken)
                reply = self._session.patiently(lambda wanted=wanted: self._reader.next(wanted, self.epoch))
                if reply is None:
                    break
                fetched += reply
                taken += self._sort_out(reply, step, max_staleness)
        except QueueError:
            # The caller gets none of them; whoever takes next must.
            self._reader.put_back(entry.ref for entry, _ in fetched)
            raise
        return taken

    def waiting(self) -> int:
        """Groups that a take could return or expire: queued of all fleets, and a dead learner's not handed out yet."""
        prefixes = [self._keys.stream_prefix, self._keys.ledger_prefix]
        reply = self._session.call("backlog", [self._keys.fleets], prefixes)
        return sum(reply[1::4]) + self._reader.recovered()

    def staleness(self, version: int, step: int) -> int:
        """Optimizer steps between a version's weights and ours at ``step``. Raises UnknownVersionError."""
        return self._registry.staleness(version, step)

    def commit(self, step: int, refs: Sequence[GroupRef]) -> int:
        """Ends the life of trained groups. Only once a checkpoint that contains ``step`` is durable.

        Returns:
            How many were not finished before; calling it again is harmless.
        """
        return self._finish("trained", step, refs)

    def report(self, step: int, version: int, uncommitted: int) -> None:
        """Says how far we are; admission counts on ``uncommitted``, the groups stepped on and not yet committed."""
        self._change("report", [self._keys.progress], [step, version, uncommitted])

    def publish(self, policy: rollout_pb2.Policy) -> None:
        """Announces a version to every fleet. Raises QueueError when it is not above all published ones."""
        text = json_format.MessageToJson(policy, preserving_proto_field_name=True, indent=None)
        # Known here before any fleet can answer with it: publication and take run in different threads.
        self._registry.add(policy.version, policy.step, policy.epoch)
        self._change("publish", [self._keys.versions], [policy.version, text, VERSIONS_KEPT])

    def running_versions(self, max_age_s: float = 600.0) -> set[int]:
        """Versions that any fleet's workers said they run, within the last ``max_age_s`` seconds."""
        return self._session.patiently(lambda: self._read_running(max_age_s))

    def expired(self) -> int:
        """Groups expired so far, all fleets, over the life of the run."""

        def read() -> int:
            ledgers = [self._keys.ledger(fleet) for fleet in self._fleets()]
            counts: list[Any] = [self._session.client.hget(key, "expired") for key in ledgers]
            return sum(int(count or 0) for count in counts)

        return self._session.patiently(read)

    def close(self) -> None:
        """Lets go of the connection. What we hold stays pending for the next learner."""
        self._session.client.close()

    def _sort_out(
        self, fetched: Sequence[tuple[Entry, bytes | None]], step: int, max_staleness: int
    ) -> list[TakenGroup]:
        """Those fresh enough to train; the others are finished here."""
        taken: list[TakenGroup] = []
        expired: list[GroupRef] = []
        lost: list[GroupRef] = []
        for entry, payload in fetched:
            group = self._parse(entry, payload)
            if group is None:
                lost.append(entry.ref)
            elif (staleness := self._group_staleness(group, step)) is None or staleness > max_staleness:
                expired.append(entry.ref)
                self._fairness.refund(entry.ref.fleet, entry.tokens)
            else:
                taken.append(TakenGroup(entry.ref, group, staleness))
        self._finish("expired", step, expired)
        self._finish("lost", step, lost)
        return taken

    def _parse(self, entry: Entry, payload: bytes | None) -> rollout_pb2.Group | None:
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

    def _group_staleness(self, group: rollout_pb2.Group, step: int) -> int | None:
        """The most stale span's; None when a version was published too long ago to be remembered."""
        versions = {span.version for response in group.responses for span in response.spans}
        try:
            return max((self._registry.staleness(version, step) for version in versions), default=0)
        except UnknownVersionError:
            return None

    def _finish(self, outcome: str, step: int, refs: Sequence[GroupRef]) -> int:
        finished = 0
        for fleet in sorted({ref.fleet for ref in refs}):
            own = [ref for ref in refs if ref.fleet == fleet]
            for start in range(0, len(own), _BATCH):
                batch = own[start : start + _BATCH]
                keys = [self._keys.stream(fleet), self._keys.ledger(fleet), self._keys.vanished(fleet)]
                names: list[str] = []
                for ref in batch:
                    keys += [self._keys.id(fleet, ref.group_id), self._keys.payload(fleet, ref.group_id)]
                    names += [ref.entry_id, ref.group_id]
                finished += self._change("finish", keys, [outcome, step, self._id_memory_s, *names])
        self._reader.release(refs)
        return finished

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
