"""The learner's side of the queue: begin, take, commit, report, publish. Synchronous; used by rank 0 only."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from learner.config import QueueConfig
from learner.queue.connect import connect
from learner.queue.entries import GroupRef, TakenGroup
from learner.queue.errors import QueueError, StillAwayError
from learner.queue.evaluation_registry import read_best, read_evaluating
from learner.queue.groups_in_flight import Audit, GroupsInFlight, Waste
from learner.queue.guard import Guard
from learner.queue.keys import ID_BUCKET_MS, Keys
from learner.queue.redis_session import Call, RedisSession
from learner.queue.refused_groups import RefusedGroups
from learner.queue.version_registry import VERSIONS_KEPT, Timeline, read_registry
from leeway.v1 import rollout_pb2
from runtime.response_spans import spans_of

_REPUBLISHED = 64  # versions; more than are published in the seconds of writes that Redis may lose
_PINNED = 4  # versions of one fleet: what its workers run while they load the newest one after the other
_FORGET_S = 60.0  # how often ids are forgotten
_LOOK_S = 1.0  # how often a learner that makes no steps looks for operators' changes


class LearnerQueue:
    """One learner's access to a run's queue. Made with ``open``; ``begin`` comes before any other call.

    Every call that changes something carries the learner's epoch; once a newer learner has opened the queue, those calls
    raise FencedError and change nothing. Calls wait for a Redis that does not answer, up to queue.outage_s, then raise
    UnavailableError. What Redis may have lost in a restart (AOF everysec) is written again: this learner's start, the
    newest versions, and the groups finished in the last seconds.

    A Redis with older data, or other data, halts the queue until an operator has decided (learner.queue.witness). Then takes
    wait, as in an outage but without limit; ``begin`` and ``commit`` raise HaltedError; versions and reports are announced
    when the queue goes on; and what is only read is what was read last. So it is too in ``waiting_at_most``, where commit
    raises StillAwayError: other ranks wait in a collective for a training loop that waits for Redis.

    Threads: one may take while another commits and reports, and a third publishes.

    Attributes:
        consumed: groups that a step consumes, as reported; before this learner says it, as the one before it said; 0: never.
        epoch: number of this learner's start, from 1.
        guard: knows whether the data in Redis is the run's newest.
    """

    def __init__(
        self,
        session: RedisSession,
        config: QueueConfig,
        epoch: int,
        weights: Mapping[str, float] | None,
        audit: Audit | None,
    ) -> None:
        self.consumed = 0
        self.epoch = epoch
        self.guard = Guard(session, config.run)
        self._session = session
        self._keys = Keys(config.run)
        self._registry = session.with_retry(lambda: read_registry(session.client, self._keys))
        self._groups = GroupsInFlight(session, self._keys, epoch, self._registry, weights, audit)
        self._audit = audit
        self._timeline: Timeline | None = None
        self._published: deque[list[Any]] = deque(maxlen=_REPUBLISHED)  # arguments of the last calls of publish.lua
        self._refused = RefusedGroups(session, self._keys, self._groups.finish)
        self._progress: tuple[int, int] | None = None  # step and version, as reported last
        self._numbers = ""  # of the step that was reported last, as JSON
        self._uncommitted = 0  # groups that steps were made with and that are not committed
        self._free: frozenset[GroupRef] = frozenset()  # in flight, and nothing of them is trained
        # Held while what occupies no capacity changes or is told: the thread that takes tells it too.
        self._occupying = threading.Lock()
        self._changes_wait, self._next_look = False, 0.0
        self._id_memory_ms, self._next_forget = 1000 * config.id_memory_s, 0.0
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
        guard = Guard(session, config.run)
        guard.make_data()
        if "+sentinel" in config.url.partition(":")[0]:
            guard.warn_of_failover()
        epoch = session.call("start", [keys.epoch], [above])
        return cls(session, config, epoch, weights, audit)

    def begin(self, resumed_step: int, trained: Sequence[GroupRef], witness: Mapping[str, Any] | None = None) -> int:
        """Continues from a checkpoint: commits the groups it contains, takes over the groups a dead learner had in flight.

        Args:
            resumed_step: optimizer steps in the checkpoint; 0 without one.
            trained: groups that the checkpoint contains and that were not committed when it was made.
            witness: what the checkpoint says of the queue (``guard.witness``).

        Returns:
            How many of ``trained`` had not been committed yet. All other groups that the dead learner had in flight are
            the first that ``take`` returns.

        Raises:
            HaltedError: the data in Redis is older than the checkpoint, or other data; an operator must decide.
        """
        self.guard.begin(witness)
        timeline = Timeline(self.epoch, resumed_step)
        self._session.call("begin", *self._begin_call(timeline))
        self._registry.begin(timeline)
        committed = self._groups.finish("trained", resumed_step, trained)
        self._groups.mark_trained(trained)
        prefixes = [self._keys.stream_prefix, self._keys.ledger_prefix]
        self._change("recover", [self._keys.progress, self._keys.fleets], prefixes)
        self._groups.recover()
        self.consumed = self._read_consumed()
        self._timeline = timeline
        return committed

    def away_s(self) -> float | None:
        """Seconds for which Redis has not answered; None while it does. May be called on any thread."""
        return self._session.away_s()

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

    def take(self, groups: int, step: int, expire_after: int) -> list[TakenGroup]:
        """Takes the next groups, fairly over the fleets and oldest first within each. Does not wait for more to come.

        Groups more stale than the bound are counted as expired and deleted, and their payloads are not even read; they do
        not use up their fleet's share, up to a limit that learner.queue.expiry_bound explains. A take reads the queue a
        bounded number of times, so it may return fewer groups than wait: call it again. Other calls come in between two
        reads.

        Args:
            groups: the most to return.
            step: optimizer steps done so far.
            expire_after: the bound, in optimizer steps; a group is as stale as its most stale span.

        Returns:
            0 to ``groups`` groups, in flight with this learner until it commits them.

        Raises:
            QueueError: ``begin`` was not called.
        """
        if self._timeline is None:
            raise QueueError(
                "take() was called before begin(): groups of a dead learner would stay behind; call begin()"
            )
        return self._groups.take(groups, step, expire_after)

    def waiting(self) -> int:
        """Counts the groups that a take could return or expire: queued, or a dead learner's and not handed out yet."""
        prefixes = [self._keys.stream_prefix, self._keys.ledger_prefix]
        reply = self.guard.last_read(
            "waiting", lambda: self._session.call("backlog", [self._keys.fleets], prefixes), before=[]
        )
        return sum(reply[1::5]) + self._groups.recovered()

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
        self._groups.require(usable)

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Sets other relative shares of the learner: fleet -> weight, > 0; 1 for fleets not named."""
        self._groups.weigh(weights)

    @property
    def changes_wait(self) -> bool:
        """Whether operators' changes waited for the learner when it last looked, and ``changes_seen`` was not called since.

        Every report looks, and costs nothing more for it.
        """
        return self._changes_wait

    def look_for_changes(self) -> None:
        """Looks once a second at most whether changes wait, for a learner that makes no steps and so reports nothing."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        with contextlib.suppress(StillAwayError), self.waiting_at_most(0.0):
            found: Any = self._session.with_retry(lambda: self._session.client.exists(self._keys.change_pending))
            self._changes_wait = bool(found)

    def changes_seen(self) -> None:
        """Records that the changes that waited have been read."""
        self._changes_wait = False

    @property
    def unusable(self) -> int:
        """Groups expired since the start because one of their versions was not usable (see ``require``)."""
        return self._groups.unusable

    def wasted(self) -> dict[Waste, int]:
        """Returns the generated tokens of accepted groups that were wasted since the last call, by reason."""
        return self._groups.wasted()

    def commit(self, step: int, refs: Sequence[GroupRef]) -> int:
        """Removes trained groups from the queue for good. Call it only once a checkpoint that contains ``step`` is durable.

        Returns:
            How many of ``refs`` this call finished; calling it again is harmless and returns 0.

        Raises:
            HaltedError: the queue stands still, and nothing was changed: commit the groups with the next checkpoint.
            StillAwayError: in ``waiting_at_most``: Redis is away for longer; commit the groups with the next checkpoint.
        """
        self._refused.settle()
        with self._occupying:
            finished = self._groups.finish("trained", step, refs)
            self._uncommitted = max(0, self._uncommitted - finished)
            self._free -= frozenset(refs)
        return finished

    def quarantine(self, step: int, refused: Sequence[tuple[GroupRef, rollout_pb2.Group]], fault: str) -> None:
        """Takes groups out of the queue at once that must never be trained, and keeps them for the operator.

        While Redis is away they stay in the queue; the next call, or the next commit, takes them out.

        Args:
            step: optimizer step that would have trained them.
            refused: the groups.
            fault: what of them was not finite, with its value, for people.
        """
        if self._audit is not None:
            self._audit("quarantined", step, [ref for ref, _ in refused])
        self._refused.add(step, refused, fault)
        spans = [span for _, group in refused for response in group.responses[:] for span in spans_of(response)]
        self._groups.waste("quarantined", sum(span.end - span.start for span in spans))
        with contextlib.suppress(StillAwayError):
            self._refused.settle()

    def give_up(self, contained: Mapping[str, int], record: bool) -> int:
        """Compares the groups that the ledgers count as trained with those in the weights that this learner begins with.

        Call it after ``begin``. The difference is what rollbacks and damaged checkpoints have given up.

        Args:
            contained: fleet -> number of groups in the weights.
            record: whether the ledgers are to say so from now on.

        Returns:
            How many more groups have been given up than the ledgers said before.
        """
        flat = [text for pair in contained.items() for text in pair]
        arguments = [self._keys.ledger_prefix, int(record), *flat]
        return self._change("give_up", [self._keys.fleets], arguments)

    def report(self, step: int, version: int, uncommitted: int, numbers: Mapping[str, float] | None = None) -> None:
        """Records the learner's progress, which gateways grant leases by, and show to operators.

        Args:
            step: optimizer steps done.
            version: the newest published version.
            uncommitted: groups that an optimizer step was made with and that are not committed yet.
            numbers: a few numbers of the step, by their names in learner.jsonl; None: no step was made since the last report.
        """
        with contextlib.suppress(StillAwayError):  # it is repeated when the queue goes on
            with self._occupying:
                self._numbers = self._numbers if numbers is None else json.dumps(dict(numbers))
                self._progress, self._uncommitted = (step, version), uncommitted
                names = [self._keys.progress, self._keys.stepped, self._keys.change_pending]
                self._changes_wait = bool(self._change("report", names, self._progress_now(step, version)))
            self._forget()

    def consumes(self, groups: int) -> None:
        """Sets how many groups a step consumes; ``report`` tells the gateways, which lease capacity for that many."""
        self.consumed = groups

    def free_capacity(self, refs: Sequence[GroupRef]) -> None:
        """Lets groups that were taken, and that nothing is trained of, occupy no capacity: others may be leased for them.

        They stay in flight until they are committed. May be called by the thread that takes.

        Raises:
            StillAwayError: in ``waiting_at_most``: Redis is away for longer; call it again.
        """
        with self._occupying:
            self._free |= frozenset(refs)
            self._change("free", [self._keys.stepped], self._not_occupying())

    def _progress_now(self, step: int, version: int) -> list[Any]:
        """Arguments of report.lua."""
        return [step, version, self._uncommitted, self.consumed, self._numbers, *self._not_occupying()]

    def _not_occupying(self) -> list[Any]:
        """Names of fleets, each with how many of its groups are in flight and occupy no capacity."""
        in_flight, free = self._groups.refs(), self._free
        # Groups are trained on in the order they were handed out.
        done, rest = in_flight[: self._uncommitted], in_flight[self._uncommitted :]
        fleets = Counter(ref.fleet for ref in [*done, *(ref for ref in rest if ref in free)])
        return [text for pair in fleets.items() for text in pair]

    def end(self) -> None:
        """Records that the run has made all its steps: gateways take no more groups, and fleets end.

        Call it only once the checkpoint of the last step is committed. A later learner takes it back with ``begin``.
        """
        self._change("end", [self._keys.progress], [])

    def publish(self, policy: rollout_pb2.Policy) -> None:
        """Announces a version to every fleet.

        Raises:
            QueueError: a version at least as high was published before.
        """
        text = json_format.MessageToJson(policy, preserving_proto_field_name=True, indent=None)
        # Registered before any fleet can answer with it: publication and take run in different threads.
        self._registry.add(policy.version, policy.step, policy.epoch)
        self._published.append([policy.version, text, VERSIONS_KEPT])
        with contextlib.suppress(StillAwayError):  # it is announced when the queue goes on
            self._change("publish", [self._keys.versions], self._published[-1])

    def running_versions(self, expire_after: int, max_age_s: float = 600.0) -> set[int]:
        """Returns the versions that stay on disk because workers run them, and that groups can still be trained of.

        Of each fleet these are the newest four that its workers reported within the last ``max_age_s`` seconds: a fleet that
        invents workers, or has many that never load a new version, must not fill the disk.

        Args:
            expire_after: in optimizer steps; older versions are left out, since every group of theirs would expire.
            max_age_s: the age up to which a report counts.
        """
        reported = self.guard.last_read("running", lambda: self._read_running(max_age_s), {})
        kept: set[int] = set()
        for versions in reported.values():
            kept.update(sorted(self._registry.fresh(versions, expire_after))[-_PINNED:])
        return kept

    def evaluated_versions(self, best: str | None) -> set[int]:
        """Returns the versions that stay on disk for evaluation: those that are being evaluated, and the best one.

        Args:
            best: the metric by which the best version is chosen, name:sampling:metric; None: no version is.
        """

        def read() -> set[int]:
            found = set(read_evaluating(self._session.client, self._keys).values())
            version = None if best is None else read_best(self._session.client, self._keys, best)
            return found if version is None else {*found, version}

        return self.guard.last_read("evaluated", read, set())

    def expired(self) -> int:
        """Counts the groups of all fleets that have expired since the run began."""

        def read() -> int:
            ledgers = [self._keys.ledger(fleet) for fleet in self._fleets()]
            counts: list[Any] = [self._session.client.hget(key, "expired") for key in ledgers]
            return sum(int(count or 0) for count in counts)

        return self.guard.last_read("expired", read, 0)

    def close(self) -> None:
        """Closes the connection. Groups in flight stay pending for the next learner."""
        self._session.client.close()

    def _read_consumed(self) -> int:
        stored: Any = self._session.with_retry(lambda: self._session.client.hget(self._keys.progress, "consumed"))
        return int(stored or 0)

    def _forget(self) -> None:
        """Forgets the ids of groups that have left the queue, once they are older than the memory of ids."""
        if time.monotonic() >= self._next_forget:
            self._next_forget = time.monotonic() + _FORGET_S
            prefixes = [self._keys.memory_prefix, self._keys.ids_prefix, self._keys.ledger_prefix]
            names = [self._keys.clock, self._keys.fleets]
            self._change("forget", names, [self._id_memory_ms, ID_BUCKET_MS, *prefixes])

    def _repeat_after_restart(self) -> None:
        """Writes again what Redis may have lost in a restart. Changes nothing if it has lost nothing."""
        if self._timeline is not None:
            self._session.execute_once("begin", [self._begin_call(self._timeline)])
        self._republish()
        self._groups.repeat()
        # Last: it says what is not committed now, whether Redis has lost the commits before or not.
        if self._progress is not None:
            names = [self._keys.epoch, self._keys.progress, self._keys.stepped, self._keys.change_pending]
            self._session.execute_once("report", [(names, [self.epoch, *self._progress_now(*self._progress)])])

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

    def _read_running(self, max_age_s: float) -> dict[str, set[int]]:
        # Redis wrote the times, so its clock is the one to compare them with.
        seconds, _ = self._session.client.time()  # pyright: ignore[reportGeneralTypeIssues]
        reported: dict[str, set[int]] = {}
        for fleet in self._fleets():
            values: Any = self._session.client.hvals(self._keys.running(fleet))
            for value in values:
                version, _, unix_ms = value.decode().partition(":")
                if seconds - int(unix_ms) / 1000 <= max_age_s:
                    reported.setdefault(fleet, set()).add(int(version))
        return reported
