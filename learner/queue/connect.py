"""Connections to Redis: URLs, time limits, and the translation of its errors into ours.

redis-py's own retries are off: a command that was repeated behind our back would be counted twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry

from learner.config import QueueConfig
from learner.queue.errors import FencedError, MemoryFullError, QueueError, UnavailableError

_SCHEMES = ("redis://", "rediss://", "unix://")


def connect(config: QueueConfig) -> redis.Redis:
    """A synchronous client; connects on first use. Raises QueueError for a URL that cannot be one."""
    with _url_errors(config.url):
        return redis.Redis.from_url(
            config.url,
            socket_timeout=config.timeout_s,
            socket_connect_timeout=min(config.timeout_s, 5.0),
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )


def connect_async(config: QueueConfig) -> redis.asyncio.Redis:
    """The asyncio twin of ``connect``."""
    with _url_errors(config.url):
        return redis.asyncio.Redis.from_url(
            config.url,
            socket_timeout=config.timeout_s,
            socket_connect_timeout=min(config.timeout_s, 5.0),
            retry=AsyncRetry(NoBackoff(), 0),
            protocol=2,
        )


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    scheme, separator, rest = url.partition("://")
    credentials, at, address = rest.rpartition("@")
    return f"{scheme}{separator}***@{address}" if at and credentials else url


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
    if isinstance(error, redis.AuthenticationError | NoPermissionError):
        return QueueError(f"Redis refuses the credentials in the queue's url: {text}")
    transient = redis.ConnectionError | redis.TimeoutError | ReadOnlyError
    if isinstance(error, transient) or any(word in text for word in ("MISCONF", "LOADING", "MASTERDOWN", "TRYAGAIN")):
        return UnavailableError(f"Redis is not available: {text}")
    return QueueError(f"Redis refused a command: {text}")


@contextlib.contextmanager
def _url_errors(url: str) -> Iterator[None]:
    if not url.startswith(_SCHEMES):
        raise QueueError(f"queue.url = {without_password(url)!r}: expected redis://, rediss:// or unix://")
    try:
        yield
    except ValueError as error:
        raise QueueError(f"queue.url = {without_password(url)!r}: {error}") from error
