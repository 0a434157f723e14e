"""A gateway's side of the queue: append in batches, count, lease, follow the versions. asyncio; many per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import redis
from google.protobuf import json_format
from redis.exceptions import NoScriptError

from learner.config import QueueConfig
from learner.queue.connect import connect_async, translate, translated
from learner.queue.errors import MemoryFullError, QueueError
from learner.queue.keys import Keys
from learner.queue.ledger import decode, ledger_keys
from learner.queue.schema import SCHEMA, check_gateway_schema
from learner.queue.scripts import Script, script
from leeway.v1 import rollout_pb2

_PAYLOAD_TTL_S = 3600  # a payload whose append never came must not stay for ever
_PROBE_TTL_S = 60


@dataclass(frozen=True, slots=True)
class Append:
    """A valid group on its way into the queue."""

    fleet: str
    group_id: str
    payload: bytes  # the serialized Group
    tokens: int  # prompt and response tokens over all responses: what training on it costs
    generated: int  # response tokens over all responses
    responses: int
    reward: float = 0.0  # mean over the responses
    lease_id: str = ""


class Appended(Enum):
    """What became of an Append."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    UNAVAILABLE = "unavailable"  # not accepted, or not known to be: to be sent again
    MEMORY_FULL = "memory_full"


@dataclass(frozen=True)
class Flushed:
    """The result of one flush."""

    outcomes: list[Appended]  # in the order of the groups
    counted: set[str]  # the fleets whose counts were taken
    backlog: dict[str, int] | None  # queued groups by fleet; None when Redis did not say


@dataclass(frozen=True)
class LeaseWish:
    """A worker's wish for capacity."""

    fleet: str
    lease_id: str
    groups: int
    lifetime_s: float
    worker: str
    running_version: int | None
    returned: Sequence[str] = ()


class GatewayQueue:
    """One gateway's connection to a run's queue. All methods raise QueueError or a subclass; ``flush`` does not.

    Args:
        config: where the queue is.
        quarantine_groups: rejected groups kept for the operator.
    """

    def __init__(self, config: QueueConfig, quarantine_groups: int) -> None:
        self._keys = Keys(config.run)
        self._redis = connect_async(config)
        self._quarantine_groups = quarantine_groups
        self._checked = False

    async def check(self) -> None:
        """Before it has succeeded once, nothing is appended.

        Raises:
            UnavailableError: Redis does not answer, or the run's data waits for a learner to bring it to our schema.
            QueueError: Redis refuses us, or the run's data is of a newer schema.
        """
        with translated():
            found: Any = await self._redis.get(self._keys.schema)
            if found is None:
                await self._redis.set(self._keys.schema, SCHEMA, nx=True)
        check_gateway_schema(found, self._keys)
        self._checked = True

    async def flush(
        self, groups: Sequence[Append], counts: Mapping[str, Mapping[str, int]], quarantined: Sequence[str]
    ) -> Flushed:
        """Appends groups in order, adds to the ledgers, keeps rejected groups for the operator: one round trip.

        Never raises for Redis: what it cannot do is said in the result, group by group and fleet by fleet.

        Args:
            groups: to append; known ids are not appended again.
            counts: fleet -> ledger field -> amount.
            quarantined: JSON texts.
        """
        if not self._checked:
            return Flushed([Appended.UNAVAILABLE] * len(groups), set(), None)
        commands: list[tuple[Any, ...]] = []
        for group in groups:
            payload_key = self._keys.payload(group.fleet, group.group_id)
            commands.append(("SET", payload_key, group.payload, "NX", "EX", _PAYLOAD_TTL_S))
            commands.append(self._append_command(group, payload_key))
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
        replies = await self._pipeline(commands)
        appended = zip(replies[0 : 2 * len(groups) : 2], replies[1 : 2 * len(groups) : 2], strict=True)
        counted = replies[2 * len(groups) : 2 * len(groups) + len(counts)]
        backlog = replies[2 * len(groups) + len(counts)]
        return Flushed(
            outcomes=[_outcome(stored, reply) for stored, reply in appended],
            counted={f for f, reply in zip(counts, counted, strict=True) if not isinstance(reply, QueueError)},
            backlog=None
            if isinstance(backlog, QueueError)
            else {fleet.decode(): queued for fleet, queued in zip(backlog[::4], backlog[1::4], strict=True)},
        )

    async def lease(self, wish: LeaseWish, bound: int) -> int:
        """Promises capacity to a fleet: how many groups, 0 to what it asked for.

        Args:
            wish: who asks for how much.
            bound: the most groups that may wait or be promised, over all fleets and gateways.
        """
        keys = self._keys
        version = "" if wish.running_version is None else wish.running_version
        # A fleet can use and give back its own leases only: its name is part of theirs.
        lease, *returned = [_member(wish.fleet, lease_id) for lease_id in (wish.lease_id, *wish.returned)]
        arguments = [wish.fleet, lease, wish.groups, int(wish.lifetime_s * 1000), bound, wish.worker, version]
        return await self._call(
            "lease",
            [
                keys.fleets,
                keys.stream(wish.fleet),
                keys.leases,
                keys.lease_remaining,
                keys.progress,
                keys.running(wish.fleet),
            ],
            [*arguments, keys.stream_prefix, *returned],
        )

    async def policies(self, after: str, wait_s: float = 0.0) -> list[tuple[str, rollout_pb2.Policy]]:
        """Versions published after the position ``after`` ("0": all), each with its position.

        Args:
            after: a position.
            wait_s: how long to wait for one when there is none; below the configured time limit.
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

    async def ledger(self, fleet: str) -> rollout_pb2.Ledger:
        """The fleet's account, at one instant."""
        return decode(fleet, await self._call("ledger", ledger_keys(self._keys, fleet), []))

    async def ledgers(self) -> list[rollout_pb2.Ledger]:
        """Every fleet's account, by name; each at one instant."""
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
        """A small write: raises unless Redis would take an append now (it answers, and is neither full nor read-only)."""
        with translated():
            await self._redis.set(self._keys.probe, 1, ex=_PROBE_TTL_S)

    async def close(self) -> None:
        """Closes all connections."""
        await self._redis.aclose()

    def _append_command(self, group: Append, payload_key: str) -> tuple[Any, ...]:
        keys = self._keys
        lease = _member(group.fleet, group.lease_id) if group.lease_id else ""
        sizes = [group.tokens, group.generated, group.responses, len(group.payload)]
        return _evalsha(
            script("append"),
            [
                keys.fleets,
                keys.stream(group.fleet),
                keys.id(group.fleet, group.group_id),
                payload_key,
                keys.ledger(group.fleet),
                keys.leases,
                keys.lease_remaining,
            ],
            [group.fleet, group.group_id, *sizes, lease, repr(group.reward)],
        )

    async def _call(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        reply = (await self._pipeline([_evalsha(script(name), keys, arguments)]))[0]
        if isinstance(reply, QueueError):
            raise reply
        return reply

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The reply to each command, or the QueueError that it met."""
        try:
            replies = await self._execute(commands)
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                # Redis has restarted and forgotten its scripts; none of these ran. Their order is kept.
                for name in ("append", "count", "backlog", "lease", "ledger"):
                    await self._redis.script_load(script(name).text)
                for i, reply in zip(unknown, await self._execute([commands[i] for i in unknown]), strict=True):
                    replies[i] = reply
        except redis.RedisError as error:
            return [translate(error)] * len(commands)
        return [translate(reply) if isinstance(reply, redis.RedisError) else reply for reply in replies]

    async def _execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)


def _evalsha(code: Script, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
    return ("EVALSHA", code.sha, len(keys), *keys, *arguments)


def _member(fleet: str, lease_id: str) -> str:
    return f"{fleet}/{lease_id}"


def _outcome(stored: Any, reply: Any) -> Appended:
    if isinstance(stored, MemoryFullError) or isinstance(reply, MemoryFullError):
        return Appended.MEMORY_FULL
    if reply in (b"accepted", b"duplicate"):
        return Appended(reply.decode())
    return Appended.UNAVAILABLE
