"""A Redis as it is: what it keeps, what it may forget, and what our user may do there. Reads, and one key that it removes."""

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

_PROBE_S = 30  # the probe key goes by itself if we do not live to remove it


@dataclass(frozen=True)
class Inspection:
    """A server, seen by our user.

    Attributes:
        version: of Redis.
        role: "master", or what else it says.
        aof: whether it has an append-only file.
        fsync: when that is forced to disk; None: this user may not ask.
        write_error: what the last write of the file or of a snapshot said; "" when well.
        policy: what is thrown away when memory is full.
        maxmemory: bytes; 0: no limit.
        used: bytes.
        available: bytes of memory of its machine.
        refused: commands that we need and our user may not use.
        write: why it took no write; "" when it did.
        schema: of the run's data, None when there is none.
        skew_s: its clock less ours, half a round trip uncertain.
        round_trip_s: of one command.
    """

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


def inspect(config: QueueConfig) -> Inspection:
    """Asks the server. Raises QueueError when it cannot be reached or does not let us in."""
    keys = Keys(config.run)
    with contextlib.closing(connect(config)) as client, translated():
        client.ping()
        refused = {name for name in ("info", "time") if not _may(client, name)}
        info: dict[str, Any] = {} if "info" in refused else _info(client)
        skew_s, round_trip_s = (0.0, 0.0) if "time" in refused else _clock(client)
        write, found = _try_commands(client, f"{keys.probe}:{time.time_ns()}")
        schema: Any = None if "get" in found else client.get(keys.schema)
        return Inspection(
            version=str(info.get("redis_version", "?")),
            role=str(info.get("role", "?")),
            aof=bool(info.get("aof_enabled", 0)),
            fsync=_fsync(client),
            write_error=_write_error(info),
            policy=str(info.get("maxmemory_policy", "?")),
            maxmemory=int(info.get("maxmemory", 0)),
            used=int(info.get("used_memory", 0)),
            available=int(info.get("total_system_memory", 0)),
            refused=tuple(sorted(refused | found)),
            write=write,
            schema=None if schema is None else schema.decode(),
            skew_s=skew_s,
            round_trip_s=round_trip_s,
        )


def known_schema() -> str:
    """The schema that this release writes."""
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


def _write_error(info: dict[str, Any]) -> str:
    states = {name: info.get(name, "ok") for name in ("aof_last_write_status", "aof_last_bgrewrite_status")}
    return ", ".join(f"{name} = {state}" for name, state in states.items() if state != "ok")


def _fsync(client: redis.Redis) -> str | None:
    """Leeway's own user may not read the configuration, on purpose."""
    try:
        answer: Any = client.config_get("appendfsync")
    except (NoPermissionError, redis.ResponseError):
        return None
    return answer.get("appendfsync")


def _clock(client: redis.Redis) -> tuple[float, float]:
    """(skew, round trip) in seconds: the shortest of three."""
    measured = []
    for _ in range(3):
        asked = time.time()
        answer: Any = client.time()
        answered = time.time()
        measured.append((answered - asked, answer[0] + answer[1] / 1e6 - (asked + answered) / 2))
    round_trip_s, skew_s = min(measured)
    return skew_s, round_trip_s


def _try_commands(client: redis.Redis, probe: str) -> tuple[str, set[str]]:
    """(why it took no write, commands refused). Each command is tried where it can do nothing.

    That is on a key of the wrong type (strings' commands on a key that is no number, the others on one that is a string):
    Redis checks permissions first, then refuses or does nothing. The key is the one thing written.
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
    return write, {name for name, answer in refusals if isinstance(answer, NoPermissionError)}


# Of learner.queue.acl.COMMANDS. KEY: the probe, a string that is no number. NONE: a key that does not exist.
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
    "hvals": ("HVALS", "NONE"),
    "lpush": ("LPUSH", "KEY", "x"), "llen": ("LLEN", "NONE"), "lindex": ("LINDEX", "NONE", "0"),
    "lrange": ("LRANGE", "NONE", "0", "1"), "lrem": ("LREM", "NONE", "0", "x"), "lset": ("LSET", "KEY", "0", "x"),
    "ltrim": ("LTRIM", "NONE", "0", "1"), "rpush": ("RPUSH", "KEY", "x"),
    "zadd": ("ZADD", "KEY", "1", "x"), "zrangebyscore": ("ZRANGEBYSCORE", "NONE", "0", "1"), "zrem": ("ZREM", "NONE", "x"),
    "xack": ("XACK", "NONE", "g", "1-1"), "xadd": ("XADD", "KEY", "*", "x", "1"),
    "xautoclaim": ("XAUTOCLAIM", "KEY", "g", "c", "0", "0"), "xdel": ("XDEL", "NONE", "1-1"),
    "xgroup": ("XGROUP", "CREATE", "KEY", "g", "0"), "xinfo": ("XINFO", "STREAM", "KEY"), "xlen": ("XLEN", "NONE"),
    "xpending": ("XPENDING", "KEY", "g"), "xrange": ("XRANGE", "NONE", "-", "+"), "xread": ("XREAD", "STREAMS", "NONE", "0"),
    "xreadgroup": ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "KEY", ">"), "xrevrange": ("XREVRANGE", "NONE", "+", "-"),
    "xtrim": ("XTRIM", "NONE", "MAXLEN", "0"),
    "scan": ("SCAN", "0", "COUNT", "1"), "ttl": ("TTL", "NONE"), "zrange": ("ZRANGE", "NONE", "0", "1"),
}  # fmt: skip
