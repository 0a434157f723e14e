"""Connections to Redis: URLs, time limits, and the translation of its errors into ours.

redis-py's own retries are off: a command that was repeated behind our back would be counted twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry

from learner.config import QueueConfig
from learner.queue.address import Address, without_password
from learner.queue.errors import FencedError, MemoryFullError, QueueError, UnavailableError

_READ_BYTES = 256 << 10  # payloads come by the megabyte
_PASSING = ("MISCONF", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN", "CLUSTERDOWN")


def connect(config: QueueConfig) -> redis.Redis:
    """A synchronous client; connects on first use. Raises QueueError for a URL that cannot be one."""
    address = Address.of(config)
    limits = {**_limits(config), "retry": Retry(NoBackoff(), 0), "socket_read_size": _READ_BYTES}
    if not address.sentinels:
        with _url_errors(config):
            return redis.Redis.from_url(address.url, **limits, **address.options)
    asked = {**limits, **(address.sentinel_options or {})}
    sentinel = redis.sentinel.Sentinel(address.sentinels, sentinel_kwargs=asked)
    client: Any = sentinel.master_for(address.service, redis_class=_Behind, **limits, **address.options)
    client.sentinels = sentinel
    return client


def connect_async(config: QueueConfig) -> redis.asyncio.Redis:
    """The asyncio twin of ``connect``."""
    address = Address.of(config)
    limits = {**_limits(config), "retry": AsyncRetry(NoBackoff(), 0)}
    if not address.sentinels:
        with _url_errors(config):
            return redis.asyncio.Redis.from_url(address.url, **limits, **address.options)
    asked = {**limits, **(address.sentinel_options or {})}
    sentinel = redis.asyncio.sentinel.Sentinel(address.sentinels, sentinel_kwargs=asked)
    client: Any = sentinel.master_for(address.service, redis_class=_BehindAsync, **limits, **address.options)
    client.sentinels = sentinel
    return client


class _Behind(redis.Redis):
    """The server that sentinels name now; closes the connections to them too."""

    sentinels: redis.sentinel.Sentinel

    def close(self) -> None:
        super().close()
        self.sentinels.close()


class _BehindAsync(redis.asyncio.Redis):
    """The asyncio twin of ``_Behind``."""

    sentinels: redis.asyncio.sentinel.Sentinel

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        await self.sentinels.aclose()


def _limits(config: QueueConfig) -> dict[str, Any]:
    return {
        "socket_timeout": config.timeout_s,
        "socket_connect_timeout": min(config.timeout_s, 5.0),
        "protocol": 2,
    }


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns what redis-py raises inside the block into QueueError and its subclasses."""
    try:
        yield
    except redis.RedisError as error:
        raise translate(error) from error


def translate(error: redis.RedisError) -> QueueError:
    """Our error for one of redis-py's."""
    text = str(error)
    if "FENCED" in text:
        return FencedError(f"a newer learner has started: {text.partition('FENCED ')[2]}")
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
        return MemoryFullError(f"Redis is full (raise maxmemory, or wait for the learner): {text}")
    if isinstance(error, redis.AuthenticationError):
        return QueueError(f"Redis refuses the credentials of queue.url or queue.password_file: {text}")
    if isinstance(error, NoPermissionError) or "NOPERM" in text:
        return QueueError(f"Redis does not let this user do what learner/queue/acl.py lists: {text}")
    transient = redis.ConnectionError | redis.TimeoutError | ReadOnlyError
    if isinstance(error, transient) or any(word in text for word in _PASSING):
        return UnavailableError(f"Redis is not available: {text}")
    return QueueError(f"Redis refused a command: {text}")


@contextlib.contextmanager
def _url_errors(config: QueueConfig) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise QueueError(f"queue.url = {without_password(config.url)!r}: {error}") from error
