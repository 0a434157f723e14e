"""Starts redis-server and sentinels with settings of their own: TLS, replicas, access control lists."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from runtime.children import Child


def free_port() -> int:
    """Finds a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisProcess:
    """A redis-server with its data in ``directory``; ``ready`` waits until it answers.

    Args:
        directory: made when missing.
        binary: path of redis-server.
        settings: lines of its configuration.
        sentinel: whether to run it as a sentinel.
    """

    def __init__(
        self, directory: Path, binary: str | Path, settings: Mapping[str, Any], sentinel: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        defaults = {"bind": "127.0.0.1", "dir": directory} | ({} if sentinel else {"save": '""', "appendonly": "yes"})
        lines = [f"{name} {value}" for name, value in {**defaults, **settings}.items()]
        file = directory / "redis.conf"
        file.write_text("\n".join(lines) + "\n")
        self.port = int(settings.get("tls-port", settings.get("port", 0)))
        command = [str(binary), str(file), *(["--sentinel"] if sentinel else [])]
        self.child = Child("redis", command, directory / "redis.log")

    def ready(self, **options: Any) -> RedisProcess:
        """Waits until the server answers; fails with its log if it ends instead."""
        wait_for(lambda: self._answers(options), lambda: self.child.tail(10))
        return self

    def client(self, **options: Any) -> redis.Redis:
        """Makes a client of this server."""
        return redis.Redis("127.0.0.1", self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0), **options)

    def _answers(self, options: dict[str, Any]) -> bool:
        assert self.child.exit_code() is None, self.child.tail(10)
        with contextlib.closing(self.client(**options)) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                raise
            except (redis.ConnectionError, redis.TimeoutError):
                return False


def wait_for(condition: Callable[[], Any], what: Callable[[], object], deadline_s: float = 60.0) -> None:
    """Waits until ``condition`` holds; fails at the deadline, saying ``what``."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.02)
