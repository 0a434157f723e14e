"""The files of a Redis server that a cluster's scheduler starts for one run: redis.conf and its password."""

from __future__ import annotations

import secrets
from pathlib import Path

from learner.queue.embedded import Fsync, server_configuration, write_private
from learner.queue.errors import QueueError

PASSWORD = "password"  # the file's name


def write_server_files(directory: Path, address: str, aof: Fsync, maxmemory: int) -> Path:
    """Writes the settings with which ``redis-server DIRECTORY/redis.conf`` serves a run to other machines.

    The password is drawn once and kept. What both files hold is readable for this user only.

    Args:
        directory: made when missing; also where the server keeps its append-only file.
        address: host and port to listen on, as other machines name them.
        aof: when the append-only file is forced to disk: before each reply, or every second.
        maxmemory: bytes above which appends are refused.

    Returns:
        The file with the password.

    Raises:
        QueueError: the address has no host or no port.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise QueueError(f"Redis' address {address!r}: expected HOST:PORT, such as node-1:6379")
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    password = directory / PASSWORD
    if not password.is_file():
        write_private(password, secrets.token_urlsafe(24) + "\n")
    text = server_configuration(directory, (host, int(port)), password.read_text().strip(), aof, maxmemory)
    write_private(directory / "redis.conf", text)
    return password
