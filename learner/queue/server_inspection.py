"""Inspects a Redis server: version, persistence, memory, clock, and what our user may do. Writes only one probe key."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoPermissionError

from learner.config import QueueConfig
from learner.queue.connect import connect, translated
from learner.queue.keys import Keys
from learner.queue.schema import SCHEMA

_PROBE_S = 30  # lifetime of the probe key, should this process die before it removes the key


@dataclass(frozen=True)
class Inspection:
    """State of a Redis server, as our user sees it.

    Attributes:
        product: the server's name and version, "Valkey 9.1.2" or "Redis 7.0.15".
        version: the Redis version that it is compatible with, as it says; Valkey 9 says "7.2.4".
        role: "master", or another role that the server reports; "?" if it says nothing.
        aof: whether it has an append-only file.
        fsync: its appendfsync setting; None if this user may not read it.
        write_error: failed states of the last write and the last rewrite of the append-only file; "" if none failed.
        policy: its maxmemory-policy, which says what it deletes when memory is full; "?" if unknown.
        maxmemory: bytes; 0: no limit.
        used: bytes of memory in use.
        available: bytes of memory of its machine.
        refused: commands that Leeway needs and this user may not use.
        write: error of a test write; "" if it succeeded.
        schema: schema of the run's data; None when there is none.
        skew_s: its clock minus ours, seconds, uncertain by half a round trip.
        round_trip_s: seconds that one command took.
        needs_replicas: whether it takes writes only while replicas follow it (min-replicas-to-write).
    """

    product: str
    version: str
    role: str
    aof: bool
    fsync: str | None
    write_error: str
    policy: str
    maxmemory: int
    used: int
    available: int
    refused: tuple[str, ...]
    write: str
    schema: str | None
    skew_s: float
    round_trip_s: float
    needs_replicas: bool = False


def inspect_server(config: QueueConfig) -> Inspection:
    """Inspects the server of a run's queue.

    Raises:
        QueueError: the server cannot be reached, or refuses the credentials.
    """
    keys = Keys(config.run)
    with contextlib.closing(connect(config)) as client, translated():
        client.ping()
        refused = {name for name in ("info", "time") if not _may(client, name)}
        info: dict[str, Any] = {} if "info" in refused else _info(client)
        skew_s, round_trip_s = (0.0, 0.0) if "time" in refused else _clock(client)
        write, denied = _try_commands(client, f"{keys.probe}:{time.time_ns()}")
        schema: Any = None if "get" in denied else client.get(keys.schema)
        return Inspection(
            product=_product(info),
            version=str(info.get("redis_version", "?")),
            role=str(info.get("role", "?")),
            aof=bool(info.get("aof_enabled", 0)),
            fsync=_fsync(client),
            write_error=_write_error(info),
            policy=str(info.get("maxmemory_policy", "?")),
            maxmemory=int(info.get("maxmemory", 0)),
            used=int(info.get("used_memory", 0)),
            available=int(info.get("total_system_memory", 0)),
            refused=tuple(sorted(refused | denied)),
            write=write,
            schema=None if schema is None else schema.decode(),
            skew_s=skew_s,
            round_trip_s=round_trip_s,
            needs_replicas="min_slaves_good_slaves" in info,  # INFO has it only where it is configured
        )


def known_schema() -> str:
    """Returns the schema that this release reads and writes."""
    return SCHEMA


def _may(client: redis.Redis, command: str) -> bool:
    try:
        client.execute_command(command)
    except NoPermissionError:
        return False
    return True


def _info(client: redis.Redis) -> dict[str, Any]:
    info: Any = client.info()
    return info


def _product(info: dict[str, Any]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '?')}"


def _write_error(info: dict[str, Any]) -> str:
    states = {name: info.get(name, "ok") for name in ("aof_last_write_status", "aof_last_bgrewrite_status")}
    return ", ".join(f"{name} = {state}" for name, state in states.items() if state != "ok")


def _fsync(client: redis.Redis) -> str | None:
    """Reads appendfsync; None if the user may not, as Leeway's own user on purpose may not."""
    try:
        answer: Any = client.config_get("appendfsync")
    except (NoPermissionError, redis.ResponseError):
        return None
    return answer.get("appendfsync")


def _clock(client: redis.Redis) -> tuple[float, float]:
    """Returns (skew, round trip) in seconds, of the shortest round trip of three."""
    measured = []
    for _ in range(3):
        asked = time.time()
        answer: Any = client.time()
        answered = time.time()
        measured.append((answered - asked, answer[0] + answer[1] / 1e6 - (asked + answered) / 2))
    round_trip_s, skew_s = min(measured)
    return skew_s, round_trip_s


def _try_commands(client: redis.Redis, probe: str) -> tuple[str, set[str]]:
    """Returns (error of a test write, commands refused). Tries each command where it can change nothing.

    That is on a missing key, or on a key of the wrong type: Redis checks permissions first, then fails or does nothing. The
    probe key is the only thing written.
    """
    write = ""
    try:
        client.execute_command("SET", probe, "x", "EX", _PROBE_S)
    except redis.ResponseError as error:
        write = str(error)
    pipeline = client.pipeline(transaction=False)
    for words in HARMLESS.values():
        pipeline.execute_command(
            *[probe if word == "KEY" else f"{probe}:none" if word == "NONE" else word for word in words]
        )
    answers = pipeline.execute(raise_on_error=False)
    with contextlib.suppress(redis.ResponseError):
        client.execute_command("DEL", probe)
    refusals = zip(HARMLESS, answers, strict=True)
    return write, {name for name, answer in refusals if _is_refusal(answer)}


def _is_refusal(answer: object) -> bool:
    """Whether a command was refused for want of permission; EXEC says so in the reason for which it gives up."""
    return isinstance(answer, NoPermissionError) or (
        isinstance(answer, redis.ResponseError) and "NOPERM" in str(answer)
    )


# A harmless call of each of learner.queue.acl.COMMANDS. KEY: the probe, a string that is no number. NONE: a missing key.
HARMLESS: dict[str, tuple[str, ...]] = {
    "ping": ("PING",), "select": ("SELECT", "0"), "info": ("INFO", "server"), "time": ("TIME",),
    "eval": ("EVAL", "return 1", "0"), "evalsha": ("EVALSHA", "0" * 40, "0"),
    "script|load": ("SCRIPT", "LOAD", "return 1"),
    "get": ("GET", "NONE"), "set": ("SET", "NONE", "x", "XX"), "del": ("DEL", "NONE"), "exists": ("EXISTS", "NONE"),
    "persist": ("PERSIST", "NONE"), "incr": ("INCR", "KEY"), "strlen": ("STRLEN", "NONE"),
    "expire": ("EXPIRE", "NONE", "1"), "mget": ("MGET", "NONE"),
    "sadd": ("SADD", "KEY", "x"), "scard": ("SCARD", "NONE"), "smembers": ("SMEMBERS", "NONE"),
    "srem": ("SREM", "NONE", "x"), "hdel": ("HDEL", "NONE", "x"), "hexists": ("HEXISTS", "NONE", "x"),
    "hget": ("HGET", "NONE", "x"), "hgetall": ("HGETALL", "NONE"), "hincrby": ("HINCRBY", "KEY", "x", "1"),
    "hlen": ("HLEN", "NONE"), "hmget": ("HMGET", "NONE", "x"), "hset": ("HSET", "KEY", "x", "1"),
    "hvals": ("HVALS", "NONE"), "hscan": ("HSCAN", "NONE", "0"),
    "lpush": ("LPUSH", "KEY", "x"), "llen": ("LLEN", "NONE"), "lindex": ("LINDEX", "NONE", "0"),
    "lrange": ("LRANGE", "NONE", "0", "1"), "lrem": ("LREM", "NONE", "0", "x"), "lset": ("LSET", "KEY", "0", "x"),
    "ltrim": ("LTRIM", "NONE", "0", "1"), "rpush": ("RPUSH", "KEY", "x"),
    "zadd": ("ZADD", "KEY", "1", "x"), "zrangebyscore": ("ZRANGEBYSCORE", "NONE", "0", "1"), "zrem": ("ZREM", "NONE", "x"),
    "zscore": ("ZSCORE", "NONE", "x"),
    "xack": ("XACK", "NONE", "g", "1-1"), "xadd": ("XADD", "KEY", "*", "x", "1"),
    "xautoclaim": ("XAUTOCLAIM", "KEY", "g", "c", "0", "0"), "xdel": ("XDEL", "NONE", "1-1"),
    "xgroup": ("XGROUP", "CREATE", "KEY", "g", "0"), "xinfo": ("XINFO", "STREAM", "KEY"), "xlen": ("XLEN", "NONE"),
    "xpending": ("XPENDING", "KEY", "g"), "xrange": ("XRANGE", "NONE", "-", "+"), "xread": ("XREAD", "STREAMS", "NONE", "0"),
    "xreadgroup": ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "KEY", ">"), "xrevrange": ("XREVRANGE", "NONE", "+", "-"),
    "xtrim": ("XTRIM", "NONE", "MAXLEN", "0"),
    "multi": ("MULTI",), "exec": ("EXEC",), "discard": ("DISCARD",),
    "scan": ("SCAN", "0", "COUNT", "1"), "ttl": ("TTL", "NONE"), "type": ("TYPE", "NONE"),
    "zrange": ("ZRANGE", "NONE", "0", "1"),
}  # fmt: skip
