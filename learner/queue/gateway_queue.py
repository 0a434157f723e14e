"""A gateway's side of the queue: append in batches, count, lease, follow the versions. Asyncio; a run has many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import redis
import structlog
from google.protobuf import json_format
from redis.exceptions import NoScriptError

from learner.config import QueueConfig
from learner.queue.change_journal import InForce, parse_in_force
from learner.queue.connect import connect_async, translate, translated
from learner.queue.errors import HaltedError, MemoryFullError, QueueError, UnavailableError
from learner.queue.evaluation_registry import EvaluationRegistry
from learner.queue.identity_registry import AddedIdentities
from learner.queue.keys import Keys
from learner.queue.leases import Leases, member
from learner.queue.ledger import decode, ledger_keys
from learner.queue.rates import Rates
from learner.queue.resp_pipeline import Command, execute
from learner.queue.scripts import Script, script
from learner.queue.version_registry import Timeline
from learner.queue.witness import Halt, Watch, Witness
from leeway.v1 import rollout_pb2

_PAYLOAD_TTL_S = 3600  # a payload whose append never came must not stay forever
_PROBE_TTL_S = 60
_ID_BYTES = 100  # memory of one remembered id
_SCRIPTS = (
    "append", "count", "backlog", "lease", "ledger", "occupancy", "renew", "remaining", "vanished", "permit", "create",
    "witness", "evaluate", "pin",
)  # fmt: skip


# What a group is counted as when it is trained, beside "trained": the rewards of its responses are all equal, or fewer than
# two of them have one.
Kind = Literal["", "without_contrast", "unscored"]


@dataclass(frozen=True, slots=True)
class Append:
    """A validated group to be appended to the queue."""

    fleet: str
    group_id: str
    payload: bytes  # the serialized Group
    tokens: int  # prompt and response tokens over all responses: the cost of training on it
    generated: int  # response tokens over all responses
    responses: int
    reward: float | None = 0.0  # mean over the scored responses; None if there are none
    versions: tuple[int, ...] = ()  # the different versions of its spans
    lease_id: str = ""
    kind: Kind = ""
    unscored: tuple[tuple[str, int], ...] = ()  # reason -> responses that nobody judged because of it


class Appended(Enum):
    """Result of appending one group."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    UNAVAILABLE = "unavailable"  # not accepted, or it is unknown whether: send it again
    MEMORY_FULL = "memory_full"
    TOO_OLD = "too_old"  # its id may have been forgotten: it may have been accepted before
    HALTED = "halted"  # the data in Redis is not the run's newest: send it again when an operator has decided


@dataclass(frozen=True, slots=True)
class Backlog:
    """Size of one fleet's part of the queue."""

    queued: int  # groups that the learner has not taken
    groups: int  # queued, and in flight
    bytes: int  # payload bytes of ``groups``
    remembered: int = 0  # bytes that the ids of its groups take, those that have left the queue too


@dataclass(frozen=True)
class Memory:
    """Memory of the Redis server, and its append-only file."""

    used: int  # bytes
    most: int  # its maxmemory, bytes; 0: no limit
    evicts: bool  # whether it deletes keys when it is full
    file: int | None = None  # bytes of the append-only file; None without one
    rewritten: bool = True  # whether the file's last rewrite succeeded


@dataclass(frozen=True)
class Flushed:
    """Result of one flush."""

    outcomes: list[Appended]  # in the order of the groups
    counted: set[str]  # the fleets whose counts were added to their ledgers
    backlog: dict[str, Backlog] | None  # by fleet; None when Redis did not answer


class GatewayQueue:
    """One gateway's connection to a run's queue. All methods except ``flush`` raise QueueError or a subclass.

    Args:
        config: where the queue is.
        quarantine_groups: how many rejected groups to keep for the operator.

    Attributes:
        leases: the run's leases.
        evaluations: what the run's versions are worth.
        rates: the fleets' token buckets.
    """

    def __init__(self, config: QueueConfig, quarantine_groups: int) -> None:
        self._keys = Keys(config.run)
        self._redis = connect_async(config)
        self._quarantine_groups = quarantine_groups
        self._timeout_s = config.timeout_s
        self._checked = False
        self._watch = Watch(config.run, self._keys, structlog.get_logger(process="gateway"))
        self.leases = Leases(self._keys, self._call_unless_halted)
        self.rates = Rates(self._keys, self._call)
        self.evaluations = EvaluationRegistry(self._keys, self._call, self._read_hash)

    async def check(self) -> None:
        """Makes a new run's data, and checks that it is of this release's schema. Nothing is appended before that.

        Raises:
            UnavailableError: Redis does not answer.
            QueueError: Redis refuses us, or the run's data is of another schema.
        """
        self._watch.created(await self._call("create", *self._watch.creation()))
        self._checked = True

    async def look(self) -> None:
        """Compares the run's data with what this gateway has seen of it before; to be called once a second.

        Raises:
            HaltedError: the queue stands still, because the data is older or other data.
        """
        self._watch.seen(await self._call("witness", *self._watch.call()))

    @property
    def halt(self) -> Halt | None:
        """Why the queue stood still at the last look; None if it did not."""
        return self._watch.halt

    async def identities(self, known: str | None) -> AddedIdentities | None:
        """Reads the identities that operators have added; None if they are what they were at the revision ``known``.

        Raises:
            HaltedError: the data is older or other data: whoever was revoked since might be in it.
        """
        keys, witness = self._keys, self._watch.known
        replies = await self._pipeline(
            [("GET", keys.nonce), ("HGET", keys.clock, "now"), ("EXISTS", keys.halted), ("GET", keys.identity_revision)]
        )
        for reply in replies:
            if isinstance(reply, QueueError):
                raise reply
        nonce, clock, halted, revision = replies
        if witness is None:
            raise UnavailableError("this gateway has not seen the run's data yet")
        if nonce != witness.nonce.encode() or int(clock or 0) < witness.floor or halted:
            raise HaltedError("the queue is halted, or its data is not the run's newest; see `leeway queue status RUN`")
        if (revision or b"").decode() == known:
            return None
        # The revision was read first: what was changed since is read again at the next look.
        return AddedIdentities.parse(revision, await self._read_hash(keys.identities))

    async def in_force(self) -> InForce:
        """Reads what operators have changed and what is in force.

        Raises:
            HaltedError: the queue stands still, because its data may not be the run's newest.
        """
        keys = self._keys
        settings = [("HGETALL", keys.settings), ("SMEMBERS", keys.drained), ("SMEMBERS", keys.pinned)]
        replies = await self._pipeline([*settings, ("HGET", keys.change_state, "paused"), ("EXISTS", keys.halted)])
        for reply in replies:
            if isinstance(reply, QueueError):
                raise reply
        *found, halted = replies
        if halted:
            raise HaltedError("the data in Redis may not be the run's newest")
        pairs = iter(found[0])
        return parse_in_force(dict(zip(pairs, pairs, strict=True)), *found[1:])

    async def flush(
        self, groups: Sequence[Append], counts: Mapping[str, Mapping[str, int]], quarantined: Sequence[str]
    ) -> Flushed:
        """Appends groups in order, adds to the ledgers and keeps rejected groups for the operator, in one round trip.

        Does not raise when Redis fails: the result says so, group by group and fleet by fleet.

        Args:
            groups: to append; groups whose ids are known are not appended again.
            counts: fleet -> ledger field -> amount to add.
            quarantined: rejected groups, as JSON.
        """
        if not self._checked:
            return Flushed([Appended.UNAVAILABLE] * len(groups), set(), None)
        by_fleet: dict[str, list[int]] = {}
        for index, group in enumerate(groups):
            by_fleet.setdefault(group.fleet, []).append(index)
        commands: list[Command] = [
            ("SET", self._keys.payload(group.fleet, group.group_id), group.payload, "NX", "EX", _PAYLOAD_TTL_S)
            for group in groups
        ]
        for fleet, indices in by_fleet.items():
            commands.append(self._append_command(fleet, [groups[index] for index in indices]))
        for fleet, fields in counts.items():
            keys = [self._keys.fleets, self._keys.stream(fleet), self._keys.ledger(fleet)]
            pairs = [text for pair in fields.items() for text in pair]
            commands.append(_evalsha(script("count"), keys, [fleet, *pairs]))
        commands.append(
            _evalsha(script("backlog"), [self._keys.fleets], [self._keys.stream_prefix, self._keys.ledger_prefix])
        )
        if quarantined and self._quarantine_groups:
            commands.append(("LPUSH", self._keys.quarantine, *quarantined))
            commands.append(("LTRIM", self._keys.quarantine, 0, self._quarantine_groups - 1))
        replies = iter(await self._pipeline(commands))
        stored = [next(replies) for _ in groups]
        outcomes = [Appended.UNAVAILABLE] * len(groups)
        for indices in by_fleet.values():
            reply = next(replies)
            for number, index in enumerate(indices):
                outcomes[index] = _outcome(stored[index], reply, number)
        return Flushed(
            outcomes=outcomes,
            counted={fleet for fleet in counts if not isinstance(next(replies), QueueError)},
            backlog=_backlog(next(replies)),
        )

    async def backlog(self) -> dict[str, Backlog]:
        """Reads the size of every fleet's part of the queue."""
        reply = await self._call("backlog", [self._keys.fleets], [self._keys.stream_prefix, self._keys.ledger_prefix])
        return _backlog(reply) or {}

    async def memory(self) -> Memory:
        """Reads how full Redis is, and how large its append-only file."""
        with translated():
            info: Any = await self._redis.info("memory")
            persistence: Any = await self._redis.info("persistence")
        return Memory(
            info["used_memory"],
            info["maxmemory"],
            info["maxmemory_policy"] != "noeviction",
            persistence.get("aof_current_size"),
            persistence.get("aof_last_bgrewrite_status", "ok") == "ok",
        )

    async def policies(self, after: str, wait_s: float = 0.0) -> list[tuple[str, rollout_pb2.Policy]]:
        """Reads the versions published after a position in their stream.

        Args:
            after: position of the last version already read; "0" for all.
            wait_s: seconds to wait for a version when there is none; below the configured time limit.

        Returns:
            (position, policy) of each, oldest first.
        """
        with translated():
            streams: Any = {self._keys.versions: after}
            block = int(wait_s * 1000) or None
            reply: Any = await self._redis.xread(streams, block=block)
        entries = reply[0][1] if reply else []
        return [
            (position.decode(), json_format.Parse(fields[b"json"], rollout_pb2.Policy(), ignore_unknown_fields=True))
            for position, fields in entries
        ]

    async def finished(self) -> bool:
        """Whether the run has made all its steps and takes no more groups."""
        with translated():
            stored: Any = await self._redis.hget(self._keys.progress, "finished")  # pyright: ignore[reportGeneralTypeIssues]
        return stored is not None

    async def timelines(self) -> list[Timeline]:
        """Reads every learner's start, oldest first."""
        with translated():
            texts: Any = await self._redis.lrange(self._keys.timelines, 0, -1)  # pyright: ignore[reportGeneralTypeIssues]
        return [Timeline.from_json(text) for text in texts]

    async def knows(self, fleet: str, group_id: str) -> bool:
        """Whether the id of a group is remembered: the group was accepted, and a second one with its id is a duplicate."""
        with translated():
            known: Any = self._redis.hexists(self._keys.ids(fleet, group_id), group_id)
            return bool(await known)

    async def note_vanished(self, fleet: str, group_ids: Sequence[str]) -> int:
        """Counts acknowledged groups whose ids Redis no longer knows as vanished.

        Args:
            fleet: who submitted them.
            group_ids: ids of acknowledged groups.

        Returns:
            How many of them vanished and were not counted before.
        """
        keys = self._keys
        names = [keys.fleets, keys.stream(fleet), keys.vanished(fleet), keys.ledger(fleet)]
        names += [keys.memory(fleet), *(keys.ids(fleet, one) for one in group_ids)]
        return await self._call("vanished", names, [fleet, *group_ids])

    async def ledger(self, fleet: str) -> rollout_pb2.Ledger:
        """Reads the fleet's ledger, at one instant."""
        return decode(fleet, await self._call("ledger", ledger_keys(self._keys, fleet), []))

    async def ledgers(self) -> list[rollout_pb2.Ledger]:
        """Reads every fleet's ledger, sorted by fleet; each at one instant."""
        with translated():
            names: Any = await self._redis.smembers(self._keys.fleets)  # pyright: ignore[reportGeneralTypeIssues]
        fleets = sorted(name.decode() for name in names)
        code = script("ledger")
        replies = await self._pipeline([_evalsha(code, ledger_keys(self._keys, fleet), []) for fleet in fleets])
        for reply in replies:
            if isinstance(reply, QueueError):
                raise reply
        return [decode(fleet, reply) for fleet, reply in zip(fleets, replies, strict=True)]

    async def probe(self) -> None:
        """Makes a small write to test that Redis takes appends: that it answers, and is neither full nor read-only.

        Raises:
            QueueError: Redis would take no append now.
        """
        with translated():
            await self._redis.set(self._keys.probe, 1, ex=_PROBE_TTL_S)

    async def close(self) -> None:
        """Closes all connections."""
        await self._redis.aclose()

    def _append_command(self, fleet: str, groups: Sequence[Append]) -> Command:
        keys = self._keys
        names = [keys.fleets, keys.stream(fleet), keys.ledger(fleet), keys.leases, keys.lease_remaining]
        names += [keys.clock, keys.nonce, keys.halted, keys.memory(fleet)]
        known = self._watch.known or Witness("", 0)
        arguments: list[str | int] = [fleet, known.nonce, known.floor]
        for group in groups:
            names += (keys.ids(fleet, group.group_id), keys.payload(fleet, group.group_id))
            arguments += (group.group_id, group.tokens, group.generated, group.responses, len(group.payload))
            arguments += ("" if group.reward is None else repr(group.reward), ",".join(map(str, group.versions)))
            arguments.append(member(fleet, group.lease_id) if group.lease_id else "")
            arguments += (group.kind, " ".join(f"{reason} {count}" for reason, count in group.unscored))
        return _evalsha(script("append"), names, arguments)

    async def _read_hash(self, key: str) -> dict[bytes, bytes]:
        with translated():
            stored: Any = await self._redis.hgetall(key)  # pyright: ignore[reportGeneralTypeIssues]
        return stored

    async def _call_unless_halted(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Runs a script. Raises HaltedError while the queue stands still: fleets are not to generate what it refuses."""
        if self._watch.halt is not None:
            raise HaltedError("the queue is halted")
        return await self._call(name, keys, arguments)

    async def _call(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        reply = (await self._pipeline([_evalsha(script(name), keys, arguments)]))[0]
        if isinstance(reply, QueueError):
            raise reply
        return reply

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Returns the reply to each command; for a command that failed, its QueueError."""
        try:
            replies = await execute(self._redis, commands, self._timeout_s)
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                # A restart emptied Redis's script cache; none of these ran. Their order is kept.
                for name in _SCRIPTS:
                    await self._redis.script_load(script(name).text)
                again = [commands[i] for i in unknown]
                for i, reply in zip(unknown, await execute(self._redis, again, self._timeout_s), strict=True):
                    replies[i] = reply
        except redis.RedisError as error:
            return [translate(error)] * len(commands)
        return [translate(reply) if isinstance(reply, redis.RedisError) else reply for reply in replies]


def _evalsha(code: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Command:
    return ("EVALSHA", code.sha, len(keys), *keys, *arguments)


def _outcome(stored: Any, appended: Any, number: int) -> Appended:
    """Result for a group, from the replies to its SET and to its fleet's append, in which its index is ``number``."""
    if isinstance(stored, MemoryFullError) or isinstance(appended, MemoryFullError):
        return Appended.MEMORY_FULL
    letter = "" if isinstance(appended, QueueError) else chr(appended[number])
    letters = {"a": Appended.ACCEPTED, "d": Appended.DUPLICATE, "o": Appended.TOO_OLD, "h": Appended.HALTED}
    return letters.get(letter, Appended.UNAVAILABLE)


def _backlog(reply: Any) -> dict[str, Backlog] | None:
    if isinstance(reply, QueueError):
        return None
    rows = zip(*(reply[i::5] for i in range(5)), strict=True)
    return {
        fleet.decode(): Backlog(queued, queued + taken, size, _ID_BYTES * ids)
        for fleet, queued, taken, size, ids in rows
    }
