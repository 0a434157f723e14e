"""Opens connections to Redis, with time limits, and translates redis-py's errors into QueueError.

redis-py's own retries are off: a command repeated without our knowledge would be counted twice.
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
from learner.queue.errors import FencedError, MemoryFullError, QueueError, RefusedCredentialsError, UnavailableError

_READ_BYTES = 256 << 10  # payloads are megabytes long
# In a script Redis 7.0 says it in other words than 6 and 7.2.
_DENIED = ("NOPERM", "no permissions", "can't run this command")
_TRANSIENT = ("MISCONF", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN", "CLUSTERDOWN")


def connect(config: QueueConfig) -> redis.Redis:
    """Returns a synchronous client, which connects on first use.

    Raises:
        QueueError: ``queue.url`` is not a valid address, or a configured file cannot be read.
    """
    address = Address.of(config)
    limits = {**_limits(config), "retry": Retry(NoBackoff(), 0), "socket_read_size": _READ_BYTES}
    if not address.sentinels:
        with _url_errors(config):
            return redis.Redis.from_url(address.url, **limits, **address.options)
    sentinel_options = {**limits, **(address.sentinel_options or {})}
    sentinel = redis.sentinel.Sentinel(address.sentinels, sentinel_kwargs=sentinel_options)
    client: Any = sentinel.master_for(address.service, redis_class=_SentinelClient, **limits, **address.options)
    client.sentinels = sentinel
    return client


def connect_async(config: QueueConfig) -> redis.asyncio.Redis:
    """Returns an asyncio client, which connects on first use.

    Raises:
        QueueError: ``queue.url`` is not a valid address, or a configured file cannot be read.
    """
    address = Address.of(config)
    limits = {**_limits(config), "retry": AsyncRetry(NoBackoff(), 0)}
    if not address.sentinels:
        with _url_errors(config):
            return redis.asyncio.Redis.from_url(address.url, **limits, **address.options)
    sentinel_options = {**limits, **(address.sentinel_options or {})}
    sentinel = redis.asyncio.sentinel.Sentinel(address.sentinels, sentinel_kwargs=sentinel_options)
    client: Any = sentinel.master_for(address.service, redis_class=_AsyncSentinelClient, **limits, **address.options)
    client.sentinels = sentinel
    return client


class _SentinelClient(redis.Redis):
    """Client of the server that sentinels name as the master; ``close`` also closes the connections to the sentinels."""

    sentinels: redis.sentinel.Sentinel

    def close(self) -> None:
        super().close()
        self.sentinels.close()


class _AsyncSentinelClient(redis.asyncio.Redis):
    """Asyncio variant of ``_SentinelClient``."""

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
    """Context in which an error of redis-py becomes a QueueError or a subclass."""
    try:
        yield
    except redis.RedisError as error:
        raise translate(error) from error


def translate(error: redis.RedisError) -> QueueError:
    """Returns the QueueError, or subclass, for an error of redis-py."""
    text = str(error)
    if "FENCED" in text:
        return FencedError(f"a newer learner has started: {text.partition('FENCED ')[2]}")
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
        return MemoryFullError(f"Redis is full (raise maxmemory, or wait for the learner): {text}")
    if isinstance(error, redis.AuthenticationError):
        return RefusedCredentialsError(f"Redis refuses the credentials of queue.url or queue.password_file: {text}")
    if isinstance(error, NoPermissionError) or any(words in text for words in _DENIED):
        return QueueError(f"Redis denies this user a command that learner/queue/acl.py lists: {text}")
    transient = redis.ConnectionError | redis.TimeoutError | ReadOnlyError
    if isinstance(error, transient) or any(word in text for word in _TRANSIENT):
        return UnavailableError(f"Redis is not available: {text}")
    return QueueError(f"Redis refused a command: {text}")


@contextlib.contextmanager
def _url_errors(config: QueueConfig) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise QueueError(f"queue.url = {without_password(config.url)!r}: {error}") from error
